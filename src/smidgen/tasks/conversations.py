"""Files of rows without a named task: which task's rows they are, or else texts that are checked as such."""

from collections.abc import Sequence

from smidgen.data.conversations import CONVERSATION_FORMATS, UNKNOWN
from smidgen.data.examples import Example
from smidgen.data.rows import Format, read_items, recognise
from smidgen.data.types import Sample
from smidgen.errors import ConfigError, DataError
from smidgen.tasks import TASKS, find_task
from smidgen.tasks.task import Row, Task


class Conversations(Task):
    """Prompts with completions that are only learned: chats, instructions, plain texts."""

    name = "texts"

    def __init__(self, form: Format):
        """Read rows of one format, whose items are samples with targets."""
        self._form = form

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per row, with its target."""
        return read_items(rows, (self._form,), source, rejected=rejected)

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The conversations up to their last answer, and that answer."""
        return [
            Example(
                sample.id,
                "\n\n".join(message.content for message in sample.messages),
                () if sample.target is None else (sample.target,),
            )
            for sample in self.samples(rows, source=source, rejected=rejected)
        ]

    def target(self, sample: Sample) -> str:
        """The last answer.

        Raises:
            ConfigError: the rows are plain texts, which are not prompts with completions.
        """
        if sample.target is None:
            raise ConfigError(f"a {self._form.title} has no completion to train on; name its task")
        return sample.target


def recognise_task(rows: Sequence[Row], source: str) -> tuple[Task, Format]:
    """Return the task that reads most of these rows, and their format; `UNKNOWN` if none reads any."""
    known = [(form, name) for name, task in TASKS.items() for form in task.formats]
    known += [(form, "") for form in CONVERSATION_FORMATS]
    known.sort(key=lambda found: -len(found[0].fields))  # the more fields, the more specific
    try:
        form = recognise(rows, [form for form, _ in known], source)
    except DataError:
        return Conversations(UNKNOWN), UNKNOWN
    name = next(name for other, name in known if other is form)
    return (find_task(name) if name else Conversations(form)), form
