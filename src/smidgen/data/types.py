"""The frozen dataclasses that packages exchange."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user` or `assistant`.

    A single message of the role `text` is a raw prompt, to which no chat template is applied.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Sample:
    """One item of a training or evaluation set.

    Attributes:
        id: unique in its set; a judge sees each pair in two orders, so its ids end in `#ab` or `#ba`.
        messages: the prompt.
        target: the target completion for training, or None.
        metadata: whatever the task needs for scoring; JSON-serialisable.
        source: name of the source that its row is from, if several are mixed; else empty.
    """

    id: str
    messages: tuple[Message, ...]
    target: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name; `source` is left out if it is empty."""
        return {name: value for name, value in asdict(self).items() if name != "source" or value}


@dataclass(frozen=True)
class Preference:
    """A sample with an answer that is preferred to another."""

    sample: Sample
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Sampling:
    r"""Sampling settings and stop conditions. The defaults are greedy decoding until the end token.

    A completion is cut before the first occurrence of a string of `stop`, anywhere. It ends after the first
    occurrence of a string of `stop_after` outside the thinking block, and keeps that string; with
    `stop_at_boxed` also after the first `\boxed{…}` outside it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    stop_at_boxed: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Constraint:
    """A constraint on the whole completion (guided decoding).

    Attributes:
        kind: the kind of constraint.
        value: JSON text of a schema; a regular expression; or a JSON list of texts to choose from.
    """

    kind: Literal["json_schema", "regex", "choices"]
    value: str


@dataclass(frozen=True)
class Request:
    """One sample to complete, with its settings.

    Attributes:
        sample: the prompt.
        sampling: sampling settings.
        constraint: constraint on the completion.
        logprobs: return the log-probabilities of the tokens, if the engine can. With llama.cpp they cost a
            sort of the whole vocabulary per token.
        forced_logprobs: with `logprobs` and a constraint, return those of tokens that it forces too, in
            further passes; otherwise theirs are 0.
        top_logprobs: with `logprobs`, number of the most probable tokens whose log-probabilities are returned
            too, at every place of the answer.
        adapter: the LoRA adapter to use: a folder (for llama.cpp also a `.gguf` file), or its name on a
            server; if None, the engine's own adapter, or none.
    """

    sample: Sample
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    logprobs: bool = True
    adapter: str | Path | None = None
    top_logprobs: int = 0
    forced_logprobs: bool = True


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one completion, in seconds, and its token counts."""

    time_to_first_token: float
    seconds: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Passes:
    """How a completion was decoded with drafts.

    Attributes:
        committed: number of tokens that each pass of the model gave, in order, the prompt's pass first.
        drafted: number of tokens that were drafted and verified.
        near_ties: number of greedy choices open to rounding: a pass of another width may choose otherwise.
    """

    committed: tuple[int, ...]
    drafted: int = 0
    near_ties: int = 0

    @property
    def tokens_per_pass(self) -> float:
        """Mean number of tokens that a pass gave."""
        return sum(self.committed) / max(1, len(self.committed))


UNANSWERED = {
    "context": "the prompt does not fit the model's context",
    "content_filter": "the server's content filter withheld the answer",
    "tool_calls": "the server called a tool instead of answering, although none was offered",
    "error": "the server failed on this request, although it answers others",
}
"""Finish reasons of completions that are not answers, whatever their text; `context` generates nothing."""


TopLogprobs = tuple[tuple[int, float], ...]
"""Ids of tokens, each with its natural-log probability."""


@dataclass(frozen=True)
class Completion:
    """The completion of a request.

    Attributes:
        text: the generated text without its end token, cut before a stop string.
        token_ids: the generated ids, including the end token if there was one and tokens forced by a
            constraint.
        logprobs: natural-log probability of each generated id under the unmodified distribution; empty if
            not requested or not available from the engine. A recording has one for the whole answer.
        top_logprobs: for each generated id, the most probable ids there, the best first, each with its
            natural-log probability under the unmodified distribution; empty as `logprobs` is.
        finish_reason: `stop` (an end token, a stop string, or a completed constraint), `length`, or one of
            `UNANSWERED`.
        timing: None if it was not measured, as in a recording.
        passes: None if it was decoded without drafts.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str = "stop"
    timing: Timing | None = None
    passes: Passes | None = None
    top_logprobs: tuple[TopLogprobs, ...] = ()


Continuations = Sequence[str] | Mapping[str, Sequence[str]]
"""Texts to score after prompts: the same after each of them, or for each sample by its id."""


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of given continuations of one prompt.

    Attributes:
        logprobs: natural-log probability of every token of every continuation; None if the prompt with the
            longest one does not fit the model's context.
        timing: every processed token counts as a prompt token, since nothing is generated.
    """

    logprobs: list[list[float]] | None
    timing: Timing | None = None


@dataclass(frozen=True)
class Score:
    """A task's score of a completion.

    Attributes:
        value: 1.0 if right, 0.0 if wrong, between for partial credit; unparsed completions get 0.0.
        answer: the parsed answer as text, or None if unparsed.
        parsed: whether the completion has the expected format.
        explanation: why parsing failed, or what the answer was derived from.
        confidence: the probability of the answer, for a task that needs it; None if the engine gives none.
    """

    value: float
    answer: str | None
    parsed: bool
    explanation: str = ""
    confidence: float | None = None


@dataclass(frozen=True)
class Record:
    """A sample, the model's completion, and its score."""

    sample: Sample
    completion: Completion
    score: Score


@dataclass(frozen=True)
class StepResult:
    """One optimiser step of a training run.

    Attributes:
        step: 1 for the first step.
        epoch: passes over the training rows so far, as a fraction.
        loss: weighted mean loss; for likelihood objectives, negative log-likelihood in nats per token.
        trained_tokens: number of tokens that the loss covers.
        tokens: number of real (unpadded) tokens processed.
        learning_rate: learning rate of this step.
        grad_norm: global L2 norm of the gradient before clipping.
        seconds: wall-clock seconds of the step.
        validation_loss: loss on the fixed validation set, if this step measured it.
        metrics: further metrics of the objective, averaged as the loss is; those of the validation set are
            named `validation_…`, those of the answers to validation rows `task_…`.
        metric: the first of the task's metrics, larger is better, if this step measured it.
    """

    step: int
    epoch: float
    loss: float
    trained_tokens: int
    tokens: int
    learning_rate: float
    grad_norm: float
    seconds: float
    validation_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name; `metrics` and `metric` are left out if there are none."""
        optional = {"metrics": bool(self.metrics), "metric": self.metric is not None}
        return {name: value for name, value in asdict(self).items() if optional.get(name, True)}
