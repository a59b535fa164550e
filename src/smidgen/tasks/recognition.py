"""Files of rows without a named task: which task's rows they are, or else texts that are checked as such."""

from collections.abc import Sequence

from smidgen.data.conversations import TEXT_FORMAT, UNKNOWN
from smidgen.data.examples import Example
from smidgen.data.rows import Format, read_items, recognise
from smidgen.data.types import Sample
from smidgen.errors import ConfigError, DataError
from smidgen.tasks import TASKS, find_task
from smidgen.tasks.task import Row, Task


class Texts(Task):
    """Texts that are no prompts with completions, so that they are only checked."""

    name = "texts"

    def __init__(self, form: Format):
        """Read rows of one format, whose items are samples without targets."""
        self._form = form

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per row, whose only message is its text."""
        return read_items(rows, (self._form,), source, rejected=rejected)

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The texts."""
        found = self.samples(rows, source=source, rejected=rejected)
        return [Example(sample.id, sample.messages[0].content, ()) for sample in found]

    def target(self, sample: Sample) -> str:
        """None: raises `ConfigError`."""
        raise ConfigError(f"a {self._form.title} has no completion to train on; name its task")


def recognise_task(rows: Sequence[Row], source: str) -> tuple[Task, Format]:
    """Return the task that reads most of these rows, and their format; `UNKNOWN` if none reads any."""
    known = [(form, name) for name, task in TASKS.items() for form in task.formats]
    known.append((TEXT_FORMAT, ""))
    known.sort(key=lambda found: -len(found[0].fields))  # the more fields, the more specific
    try:
        form = recognise(rows, [form for form, _ in known], source)
    except DataError:
        return Texts(UNKNOWN), UNKNOWN
    name = next(name for other, name in known if other is form)
    return (find_task(name) if name else Texts(form)), form
