"""The rows of a training on trajectories, also before they are collected."""

from collections.abc import Sequence

from smidgen.config import JacobiConfig
from smidgen.data.templates import Tokenizer
from smidgen.data.trajectories import Trajectory, read_trajectories
from smidgen.data.types import Sample
from smidgen.errors import DataError, first_few
from smidgen.inference.trajectories import Question
from smidgen.pipeline.context import RunContext
from smidgen.training.jacobi import BlockRow
from smidgen.training.rendering import RenderedRows

PLACE = "trajectories"
FACTS = f"{PLACE}/facts.json"
"""Written when all of them are collected."""
SPLITS = ("train", "validation")

Prompts = Sequence[Sample | Trajectory]


def collected_parts(context: RunContext) -> tuple[Prompts, Prompts] | None:
    """Read the training and validation trajectories; None as long as they are not complete.

    Raises:
        DataError: a shard is damaged.
    """
    if not context.run.path(FACTS).exists():
        return None
    training, validation = (list(read_trajectories(context.run.path(PLACE) / split)) for split in SPLITS)
    return training, validation


def block_rows(
    part: Prompts, tokenizer: Tokenizer, settings: JacobiConfig, *, thinking: bool
) -> RenderedRows[BlockRow]:
    """Return the rows of trajectories; of samples, rows as they are likely to be, for plans.

    Raises:
        DataError: no prompt leaves room for an answer, or all answers have too many blocks.
    """
    samples = [each for each in part if isinstance(each, Sample)]
    questions, _ = questions_of(samples, tokenizer, settings, thinking=thinking)
    targets = {sample.id: sample.target for sample in samples}
    likely = [_likely(question, targets[question.id], tokenizer, settings) for question in questions]
    found = [*likely, *(each for each in part if isinstance(each, Trajectory))]
    most = settings.max_trajectory_count
    kept = [
        BlockRow.of(each, settings.num_guesses) for each in found if most is None or len(each.blocks) <= most
    ]
    if not kept:
        raise DataError(
            f"none of {len(found)} answers has at most {most} blocks of {settings.block_size} tokens; raise "
            "train.max_trajectory_count or train.block_size"
        )
    return RenderedRows(kept, 0)


def questions_of(
    samples: Sequence[Sample], tokenizer: Tokenizer, settings: JacobiConfig, *, thinking: bool
) -> tuple[list[Question], list[str]]:
    """Return the prompts of samples and how long each answer may be; also name those that leave no room.

    Raises:
        DataError: no prompt leaves room for an answer.
    """
    questions, faults = [], []
    for sample in samples:
        prompt = tokenizer.render_prompt(sample.messages, thinking=thinking)
        room = settings.max_length - len(prompt)
        if room < 1:
            faults.append(f"sample '{sample.id}' has {len(prompt)} tokens")
        else:
            questions.append(Question(sample.id, prompt, min(settings.max_tokens, room)))
    if faults and not questions:
        raise DataError(
            f"none of {len(faults)} prompts leaves room for an answer within train.max_length, "
            f"{settings.max_length}: {first_few(faults)}; raise it or shorten them"
        )
    return questions, faults


def _likely(
    question: Question, target: str | None, tokenizer: Tokenizer, settings: JacobiConfig
) -> Trajectory:
    """Return a trajectory with the tokens of the target, or as long as it may be, and one wrong state."""
    tokens = [0] * question.max_tokens if target is None else [*tokenizer.encode(target), 0]
    tokens = tokens[: question.max_tokens]
    blocks = [tokens[at : at + settings.block_size] for at in range(0, len(tokens), settings.block_size)]
    wrong = [[block[0], *(int(token == 0) for token in block[1:])] for block in blocks]
    states = [[noise, block] for noise, block in zip(wrong, blocks, strict=True)]
    return Trajectory(question.id, question.prompt, states, is_finished=True)
