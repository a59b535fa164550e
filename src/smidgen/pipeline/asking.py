"""How a model is asked in an evaluation: as it is trained, under the output constraint, or after examples.

A base model that was never shown the format of the answers fails by the format alone, which says nothing
about what training adds. So the base is also held to the format, and shown worked examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Message, Sample
from smidgen.errors import ConfigError, ModelError
from smidgen.models.load import describe, read_config
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.task_context import TaskContext
from smidgen.tasks.examples import drawn, with_examples


@dataclass(frozen=True)
class Asking:
    """How the samples are asked.

    Attributes:
        constrained: whether answers are held to the task's output constraint.
        examples: number of worked examples before each prompt.
        system: system message in place of that of the task; None for the task's own.
        max_tokens: maximum number of tokens per answer; None for that of the evaluations.
        attacked: number of items that are also asked manipulated, where the task has such; None for none.
    """

    constrained: bool = False
    examples: int = 0
    system: str | None = None
    max_tokens: int | None = None
    attacked: int | None = None


PLAIN = Asking()
"""As the model is trained and used."""


@dataclass(frozen=True)
class Asked:
    """Samples as they are asked, facts about them for the report, and the attacked ones."""

    samples: Sequence[Sample]
    facts: Mapping[str, Any]
    attacked: Sequence[Sample] = ()


@dataclass(frozen=True)
class Skipped:
    """Why a task cannot be asked in some way."""

    reason: str


def asked_samples(
    context: RunContext, task: TaskContext, asking: Asking, *, limit: int | None = None
) -> Asked | Skipped:
    """Return the test samples of a task, at most `limit`, as they are asked, or why they cannot be."""
    samples = [with_system(sample, asking.system) for sample in task.test_samples[:limit]]
    if asking.constrained:
        if any(task.task.constraint_of(sample) is None for sample in samples):
            return Skipped(task.task.why_unconstrained)
        if context.specialist.model.thinking:
            return Skipped("the model thinks first, and a constraint holds from the first token on")
        return Asked(samples, {"constrained": True})
    if asking.examples:
        return _exemplified(context, task, samples, asking.examples)
    return Asked(samples, {}, attacked_samples(context, task, asking))


def attacked_samples(context: RunContext, task: TaskContext, asking: Asking) -> list[Sample]:
    """Return the manipulated samples of a task; none if it has no such."""
    attacks, number, seed = task.task.attacks, asking.attacked, context.specialist.evaluate.seed
    if attacks is None or not number:
        return []
    return attacks.samples(task.test_rows, number, source=task.config.data.test, seed=seed)


def check_attacks(context: RunContext) -> None:
    """Refuse attacks in a recipe that no task can be asked with, or a task not with these settings.

    Raises:
        ConfigError: the prompts of no task show answers, or a template grades them alone.
        DataError: the test rows have no worse answers.
    """
    if not context.tasks or not (number := context.specialist.evaluate.attacked):
        return
    if all(task.blank.attacks is None for task in context.tasks):
        names = ", ".join(task.blank.name for task in context.tasks)
        raise ConfigError(
            f"evaluate.attacked is {number}, but the prompts of {names} show no answers that could be "
            "manipulated; attacks are for the task judge, so leave it out"
        )
    for task in context.tasks:
        attacked_samples(context, task, Asking(attacked=number))


def with_system(sample: Sample, system: str | None) -> Sample:
    """Return a sample with another system message; the same sample if that is None."""
    if system is None:
        return sample
    rest = tuple(message for message in sample.messages if message.role != "system")
    return replace(sample, messages=(Message("system", system), *rest))


def _exemplified(
    context: RunContext, task: TaskContext, samples: Sequence[Sample], count: int
) -> Asked | Skipped:
    """Put worked examples before every prompt, as many as fit the context of the base model."""
    if why := task.task.why_no_examples:
        return Skipped(why)
    asked = {sample.messages for sample in task.test_samples}
    others = [sample for sample in task.split_samples[0] if sample.messages not in asked]
    examples = drawn(others, count, context.specialist.evaluate.seed)
    try:
        room = _Room(context)
        found = [_with_fitting(sample, examples, room) for sample in samples]
    except ModelError as error:
        return Skipped(str(error))
    counts = [number for _, number in found]
    if not any(counts):
        return Skipped("no worked example fits the context of the base model beside prompt and answer")
    facts = {"per_prompt": sum(counts) / len(counts), "fewest": min(counts)}
    ids = [example.id for example in examples]
    return Asked([sample for sample, _ in found], {"examples": {"ids": ids, **facts}})


class _Room:
    """Says whether prompts fit the base model's context beside an answer."""

    def __init__(self, context: RunContext) -> None:
        path = describe(context.specialist.model.base)
        self._tokenizer: Tokenizer = load_tokenizer(path)
        self._thinking = context.specialist.model.thinking
        length = read_config(path).get("max_position_embeddings") or 2**31
        self._most = length - context.specialist.evaluate.max_tokens

    def fits(self, sample: Sample) -> bool:
        """Whether a prompt leaves room for an answer of full length."""
        return len(self._tokenizer.render_prompt(sample.messages, thinking=self._thinking)) <= self._most


def _with_fitting(sample: Sample, examples: Sequence[Sample], room: _Room) -> tuple[Sample, int]:
    """Return a sample after the examples that fit, and how many these are."""
    if room.fits(whole := with_examples(sample, examples)):
        return whole, len(examples)
    kept: list[Sample] = []
    for example in examples:
        if room.fits(with_examples(sample, [*kept, example])):
            kept.append(example)
    return with_examples(sample, kept), len(kept)
