"""Training rows as they are trained on, for people: runs of tokens that are cut, context or learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

from smidgen.data.row_files import source_name
from smidgen.data.rows import read_rows, select_rows
from smidgen.data.types import Sample
from smidgen.errors import DataError
from smidgen.figures.pages import page_template
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.data_lengths import Renderer
from smidgen.tasks.recognition import recognise_task
from smidgen.tasks.task import Task
from smidgen.training.sft import sft_row

Part = Literal["cut", "context", "learned"]


@dataclass(frozen=True)
class ShownRow:
    """One training row.

    Attributes:
        id: that of its sample.
        parts: runs of tokens: what they are, and their text.
        tokens: number of tokens of each kind.
        fault: why it cannot be trained on, or "".
    """

    id: str
    parts: Sequence[tuple[Part, str]] = ()
    tokens: dict[str, int] = field(default_factory=dict)
    fault: str = ""

    @property
    def counts(self) -> str:
        """The numbers of tokens, in words."""
        return ", ".join(f"{number:,} {name}" for name, number in self.tokens.items() if number)


def shown_rows(samples: Sequence[Sample], renderer: Renderer) -> Iterator[ShownRow]:
    """Render samples with their targets as `smidgen train` does, and decode each run of equal tokens."""
    for sample in samples:
        try:
            yield _shown(sample, renderer)
        except DataError as error:
            yield ShownRow(sample.id, fault=str(error))


def _shown(sample: Sample, renderer: Renderer) -> ShownRow:
    tokenizer, thinking = renderer.tokenizer, renderer.thinking
    row, cut = sft_row(sample, tokenizer, renderer.config, thinking=thinking)
    whole, _ = sft_row(sample, tokenizer, renderer.uncut.config, thinking=thinking)
    lost: list[Part] = ["cut"] * cut
    kept: list[Part] = ["learned" if learned else "context" for learned in row.loss_mask]
    kinds = lost + kept
    parts: list[tuple[Part, str]] = []
    for kind, run in groupby(zip(kinds, whole.token_ids, strict=True), key=itemgetter(0)):
        parts.append((kind, tokenizer.decode([int(token) for _, token in run], keep_special=True)))
    counts = {kind: kinds.count(kind) for kind in ("context", "learned", "cut")}
    return ShownRow(sample.id, parts, counts)


def samples_of_file(path: Path, task: Task | None, number: int) -> list[Sample]:
    """Return the training samples of some rows of a file, evenly spaced.

    Args:
        path: the file.
        task: what reads it; recognised by its columns if None.
        number: of rows; a row may have several samples, such as both orders of a pair.
    """
    rows, source = read_rows(path), source_name(path)
    found = recognise_task(rows, source)[0] if task is None else task.prepare(rows, source=source)
    return found.training_samples(select_rows(rows, limit=number), source=source)


def samples_of_recipe(context: RunContext, number: int) -> list[Sample]:
    """Return the training samples of some rows of each source of each task of a recipe, evenly spaced."""
    return [
        sample
        for task in context.tasks
        for sample in task.samples_of(
            {name: select_rows(rows, limit=number) for name, rows in task.sources.items()}
        )
    ]


def page(rows: Sequence[ShownRow], *, title: str, note: str) -> str:
    """Return a self-contained HTML page of training rows, without scripts."""
    template = page_template(Path(__file__).parent, "shown_rows.html.jinja")
    return template.render(rows=rows, title=title, note=note)
