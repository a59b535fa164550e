"""The small frozen types that rooms hand to each other."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user` or `assistant`.

    A prompt that is one message of the role `text` is that text as it stands, without any chat template.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Sample:
    """One item of a training or evaluation set.

    Attributes:
        id: unique in its set; a judge asks each pair twice, so its ids end in `#ab` or `#ba`.
        messages: what the model is shown.
        target: the text it should answer (training), or None.
        metadata: whatever its task needs for scoring; JSON-serialisable.
    """

    id: str
    messages: tuple[Message, ...]
    target: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    r"""How tokens are drawn, and what ends them. The defaults are greedy decoding to the end token.

    An answer is cut before the first string of `stop`, wherever it comes. It ends with the first string of
    `stop_after` that stands outside of a thinking block, which stays in it; with `stop_at_boxed` also with
    the first `\boxed{…}` there.
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
    """What the whole answer has to be.

    Attributes:
        kind: what `value` is.
        value: JSON text of a schema; a regular expression; or a JSON list of texts to choose from.
    """

    kind: Literal["json_schema", "regex", "choices"]
    value: str


@dataclass(frozen=True)
class Request:
    """One sample to complete, with the way to do it.

    Attributes:
        sample: what the model is shown.
        sampling: how tokens are drawn.
        constraint: what the answer has to be.
        logprobs: whether the completion is to tell the probabilities of its tokens, where its engine can. In
            llama.cpp they cost a sort of the whole vocabulary for every token.
        adapter: the low-rank adapter to answer with: a folder (for llama.cpp also a `.gguf` file), or what a
            server calls it; the engine's own, or none, if None.
    """

    sample: Sample
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    logprobs: bool = True
    adapter: str | Path | None = None


@dataclass(frozen=True)
class Timing:
    """Wall-clock of one completion, in seconds, and its token counts."""

    time_to_first_token: float
    seconds: float
    prompt_tokens: int
    completion_tokens: int


UNANSWERED = {
    "context": "the prompt does not fit the model's context",
    "content_filter": "the server's filter held the answer back",
    "tool_calls": "the server called a tool, where there is none, instead of answering",
    "error": "the server has no answer to this request, though it answers others",
}
"""Reasons why a completion is no answer, whatever its text; with `context` nothing was generated."""


@dataclass(frozen=True)
class Completion:
    """What a model answered.

    Attributes:
        text: the answer without its end token, cut before a stop string.
        token_ids: the sampled ids, the end token included where one was sampled; what a constraint left no
            choice about is among them.
        logprobs: natural-log probability of each sampled id under the unmodified distribution; empty if the
            request did not ask for them or the engine does not know them.
        finish_reason: `stop` (an end token, a stop string, or a constraint that nothing can follow),
            `length`, or one of `UNANSWERED`.
        timing: None where it was not measured, as in a recording.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str = "stop"
    timing: Timing | None = None


@dataclass(frozen=True)
class Scored:
    """What an engine found of given continuations of one prompt.

    Attributes:
        logprobs: natural-log probability of every token of every continuation; None if the prompt with the
            longest does not fit the model's context.
        timing: every token that was run counts as one of the prompt; nothing was generated.
    """

    logprobs: list[list[float]] | None
    timing: Timing | None = None


@dataclass(frozen=True)
class Score:
    """What a task made of a completion.

    Attributes:
        value: 1.0 right, 0.0 wrong, between for partial credit; what does not parse is 0.0.
        answer: the parsed answer in the task's own words, or None when unparsed.
        parsed: whether the text had the form that was asked for.
        explanation: why it failed to parse, or what the answer was read from.
    """

    value: float
    answer: str | None
    parsed: bool
    explanation: str = ""


@dataclass(frozen=True)
class Record:
    """A sample, what the model said, and what that was worth."""

    sample: Sample
    completion: Completion
    score: Score


@dataclass(frozen=True)
class StepResult:
    """One optimiser step of a training run.

    Attributes:
        step: 1 for the first step.
        epoch: epochs begun, as a fraction of the rows seen.
        loss: weighted mean of what is minimised; of a likelihood, negative and in nats a trained token.
        trained_tokens: how many tokens the loss counted.
        tokens: how many real (unpadded) tokens went through the model.
        learning_rate: the rate this step used.
        grad_norm: global L2 norm before clipping.
        seconds: wall-clock of the step.
        validation_loss: on the fixed validation set, where this step measured it.
        metrics: what the objective measured besides the loss, averaged as the loss is; those of the
            validation set are named `validation_…`.
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, `metrics` only where the objective has any."""
        return {name: value for name, value in asdict(self).items() if name != "metrics" or value}
