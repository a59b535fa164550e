"""Lengths of training rows in tokens: what is cut, what does not fit, and what has no token to learn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.config import SftConfig, parse_table
from smidgen.data.findings import Finding, finding
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Sample
from smidgen.errors import ConfigError, DataError
from smidgen.models.load import describe
from smidgen.pipeline.context import RunContext
from smidgen.training.sft import sft_row

UNCUT = 10**9
"""A maximum length that no row has."""


@dataclass(frozen=True)
class Renderer:
    """What turns samples into training rows.

    Attributes:
        tokenizer: that of the base model.
        config: the settings of the training, of which the maximum length and the mask count.
        thinking: whether the chat template opens a thinking block.
    """

    tokenizer: Tokenizer
    config: SftConfig
    thinking: bool = False

    @property
    def uncut(self) -> "Renderer":
        """The same without a maximum length."""
        config = self.config.model_copy(update={"max_length": UNCUT})
        return Renderer(self.tokenizer, config, self.thinking)


def renderer_of(model: str, max_length: int | None = None) -> Renderer:
    """Return what renders rows with a model's tokenizer; a `max_length` of None is that of a recipe.

    Raises:
        ModelError: there is no such model, or it has no tokenizer.
    """
    config = (
        SftConfig()
        if max_length is None
        else parse_table(SftConfig, {"max_length": max_length}, "--max-length")
    )
    return Renderer(load_tokenizer(describe(model)), config)


def renderer_of_recipe(context: RunContext) -> Renderer:
    """Return what renders the training rows of a recipe.

    Raises:
        ConfigError: the recipe pretrains, so it has no rows.
        ModelError: as in `renderer_of`.
    """
    if not context.tasks:
        raise ConfigError(
            f"the recipe {context.recipe.name} pretrains on a stream of text and has no rows of a task; "
            "give the recipe of a specialist"
        )
    settings, model = context.recipe.train, context.specialist.model
    config = settings if isinstance(settings, SftConfig) else SftConfig(max_length=settings.max_length)
    return Renderer(load_tokenizer(describe(model.base)), config, model.thinking)


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens of rows: median, 95th percentile and maximum.

    Attributes:
        prompt: of prompts, the chat template included.
        completion: of the tokens that are learned, end tokens included; None without targets.
        max_length: what a row may have.
        cut_rows: rows that lose context.
        cut_tokens: how many tokens they lose together.
    """

    prompt: tuple[int, int, int]
    completion: tuple[int, int, int] | None
    max_length: int
    cut_rows: int
    cut_tokens: int


def examine_lengths(samples: Sequence[Sample], renderer: Renderer) -> tuple[list[Finding], Lengths | None]:
    """Find rows that lose context, do not fit or have nothing to learn, and measure all of them.

    Samples without a target are measured by their prompts. The lengths are None if no sample can be rendered.
    """
    limit = renderer.config.max_length
    sizes: list[tuple[int, int]] = []
    empty, cut, long = [], {}, []
    for sample in samples:
        name = sample.id
        try:
            prompt, completion = _sizes(sample, renderer.uncut)
        except DataError:
            empty.append(name)
            continue
        sizes.append((prompt, completion))
        if completion + 1 > limit:
            long.append(name)
        elif prompt + completion > limit:
            cut[name] = cut.get(name, 0) + prompt + completion - limit
    most = max((completion for _, completion in sizes), default=0)
    advice = f"the prompt loses its beginning to fit max_length = {limit}; raise it, or shorten the rows"
    found = [
        *finding("nothing to learn", "error", empty, "no token would be learned; remove"),
        *finding(
            "completion too long",
            "error",
            long,
            f"the completion does not fit max_length = {limit}; raise it to {most + 1} or more",
        ),
        *finding("prompt cut", "warning", cut, advice),
    ]
    if not sizes:
        return found, None
    prompts, completions = zip(*sizes, strict=True)
    learned = _summary(completions) if most else None
    return found, Lengths(_summary(prompts), learned, limit, len(cut), sum(cut.values()))


def _sizes(sample: Sample, renderer: Renderer) -> tuple[int, int]:
    """Return the numbers of tokens of the prompt and of the last completion."""
    if sample.target is None:
        return len(renderer.tokenizer.render_prompt(sample.messages, thinking=renderer.thinking)), 0
    row, _ = sft_row(sample, renderer.tokenizer, renderer.config, thinking=renderer.thinking)
    completion = int(np.argmin(row.loss_mask[::-1]))  # the run of learned tokens at the end
    return len(row.token_ids) - completion, completion


def _summary(values: Sequence[int]) -> tuple[int, int, int]:
    median, high = np.percentile(values, (50, 95), method="higher")
    return int(median), int(high), max(values)
