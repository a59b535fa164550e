r"""Custom tasks, defined in a recipe without any Python.

    task = "own"

    [settings]
    message = "Which queue is this ticket for?\n\n{{ text }}"
    gold = "queue"
    labels = "rows"
    metric = "macro_f1"

`message` and `system` are Jinja templates over the columns of a row. The answer is one of the `labels`, is
extracted by a `regex` or from a JSON object that matches a `json_schema`, or is the whole completion. The
`metric` compares it with the column `gold`. See docs/configuration.md for all keys and docs/quickstart.md for
an example.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import jinja2

from smidgen.data.bad_rows import FieldError
from smidgen.data.examples import Example
from smidgen.data.fields import fault_of, row_id, shown, text_of
from smidgen.data.row_templates import row_template, template_fields
from smidgen.data.rows import Format, read_items
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.errors import ConfigError, DataError, ParseError, did_you_mean
from smidgen.files import sha256_json
from smidgen.tasks.classification import confusions, macro_f1_of, most_frequent, normalise
from smidgen.tasks.measures import Metric
from smidgen.tasks.own_answers import (
    ANSWER,
    answer_in_object,
    answer_pattern,
    answer_schema,
    json_value,
    last_number,
    matched_answer,
)
from smidgen.tasks.own_settings import OWN, OwnSettings
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate, unparsed_reasons
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

FROM_ROWS = "rows"
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class OwnRow:
    """One row: the columns that the templates use, and the right answer as text."""

    id: str
    columns: dict[str, str]
    gold: str


class OwnTask(Task):
    """A custom task, defined by a TOML table."""

    name = OWN
    settings_table = OwnSettings
    words = TaskWords(
        claim=ClaimWords("model", "is right on", "rows", "rows"),
        metrics={
            "accuracy": MetricWords("Accuracy", "correct answers", "↑"),
            "macro_f1": MetricWords("Macro F1", "all labels weighted equally", "↑"),
            "unparsed_rate": MetricWords("Unparsed", "unparsed completions; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the most frequent answer"},
    )

    def __init__(self, settings: OwnSettings, labels: Sequence[str] = ()) -> None:
        """Create a task.

        Args:
            settings: the table of the recipe.
            labels: the labels found in rows, if `settings.labels` is `rows`.

        Raises:
            ConfigError: a template, the regex or the schema is invalid.
        """
        self.settings, self._own = settings, settings
        self.variant = sha256_json(settings.model_dump(mode="json"))[:8]
        self.stop = settings.stop
        self._message = row_template("message", settings.message)
        self._system = None if settings.system is None else row_template("system", settings.system)
        self._target = None if settings.target is None else row_template("target", settings.target)
        texts = (settings.message, settings.system or "", settings.target or "")
        used = set().union(*map(template_fields, texts))
        self._fields = tuple(sorted(used - {"gold"}))
        self._regex = None if settings.regex is None else answer_pattern(settings.regex)
        self._schema = None if settings.json_schema is None else answer_schema(settings.json_schema)
        listed = labels if settings.labels in (None, FROM_ROWS) else settings.labels
        self._labels = _by_normal_form(listed or ())

    @classmethod
    def from_settings(cls, settings: OwnSettings) -> Self:
        """Create the task from a recipe's table."""
        return cls(settings)

    @property
    def constraint(self) -> Constraint | None:
        """A choice among the labels, the regex or the schema; None for free text."""
        if self._labels:
            return Constraint("choices", json.dumps(list(self._labels.values())))
        if self._own.regex is not None:
            return Constraint("regex", f"(?s:{self._own.regex})")
        if self._own.json_schema is not None:
            return Constraint("json_schema", json.dumps(self._schema))
        return None

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Collect the labels from these rows if `labels` is `rows`.

        Raises:
            DataError: two labels differ only in case, spaces or underscores.
        """
        if self._own.labels != FROM_ROWS:
            return self
        found = {row.gold for row in self._read(rows, source)} | set(self._labels.values())
        return type(self)(self._own, sorted(found))

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per row, with its columns and right answer in the metadata."""
        return [
            Sample(row.id, self._messages(row), metadata={"gold": row.gold, "columns": row.columns})
            for row in self._read(rows, source, rejected)
        ]

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The columns that the templates use, with the right answer, which is a class if there are labels."""
        return [
            Example(
                row.id,
                "\n\n".join(row.columns.values()),
                (row.gold,),
                None if self._own.labels is None else row.gold,
            )
            for row in self._read(rows, source, rejected)
        ]

    def target(self, sample: Sample) -> str:
        """The target completion: the rendered `target`, a JSON object, or the right answer itself.

        Raises:
            DataError: it does not parse as the right answer.
        """
        gold, columns = sample.metadata["gold"], sample.metadata["columns"]
        if self._target is not None:
            text = _render("target", self._target, {**columns, "gold": gold})
        elif self._own.json_schema is not None:
            text = json.dumps({ANSWER: json_value(gold)}, ensure_ascii=False)
        else:
            text = gold
        try:
            if self._is_right(self.parse(text), gold):
                return text
            why = "it parses as another answer"
        except ParseError as error:
            why = str(error)
        raise DataError(
            f"row '{sample.id}': the target {text!r} does not give the answer {gold!r}: {why}; "
            "set 'target' in [settings], or fix the row"
        )

    def parse(self, text: str) -> str:
        """The answer in a text; raises `ParseError`."""
        shown_text = text.strip()[:_SHOWN_CHARACTERS]
        if self._schema is not None:
            return answer_in_object(text, self._schema)
        if self._regex is not None:
            if not (matches := list(self._regex.finditer(text))):
                raise ParseError(f"the regex does not match '{shown_text}'")
            return matched_answer(matches[-1])
        answer = super().parse(text)
        if self._own.labels is not None:
            if normalise(answer) not in self._labels:
                raise ParseError(f"'{shown_text}' is none of the {len(self._labels)} labels")
            return self._labels[normalise(answer)]
        if self._own.metric == "numeric" and last_number(answer) is None:
            raise ParseError(f"there is no number in '{shown_text}'")
        return answer

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the metric accepts the answer."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(self._is_right(said, sample.metadata["gold"])), said, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The metrics, that of the recipe first."""
        found: dict[str, Metric] = {"accuracy": accuracy(records), "unparsed_rate": unparsed_rate(records)}
        if self._own.metric != "macro_f1":
            return found
        macro_f1 = macro_f1_of(
            [record.sample.metadata["gold"] for record in records],
            [record.score.answer for record in records],
            [record.sample.id for record in records],
        )
        return {"macro_f1": macro_f1, **found}

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of always giving the most frequent answer of these samples."""
        gold = [sample.metadata["gold"] for sample in samples]
        return {"most_frequent": most_frequent(gold, [sample.id for sample in samples])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Reasons of unparsed answers, and confusions of labels."""
        found: dict[str, Any] = {"unparsed": unparsed_reasons(records)}
        if self._own.labels is not None:
            wrong = [(r.sample.metadata["gold"], r.score.answer) for r in records if r.score.value < 1]
            found["confusions"] = confusions(wrong)
        return found

    def _read(self, rows: Sequence[Row], source: str, rejected: list[str] | None = None) -> list[OwnRow]:
        gold = self._own.gold

        def read(row: Row, number: int) -> list[OwnRow]:
            columns = {field: text_of(row, field) for field in self._fields}
            value = row[gold]
            if (
                isinstance(value, bool)
                or not isinstance(value, str | int | float)
                or str(value).strip() == ""
            ):
                raise FieldError(
                    f"'{gold}' is {shown(row, gold)}, expected text or a number", fault_of(row, gold)
                )
            if self._labels and normalise(str(value)) not in self._labels:
                raise FieldError(
                    f"'{gold}' is {shown(row, gold)}, which is not one of the labels."
                    f"{did_you_mean(str(value), self._labels.values())}",
                    "unknown label",
                )
            return [OwnRow(row_id(row, number), columns, str(value).strip())]

        fields = tuple(dict.fromkeys((*self._fields, gold)))
        return read_items(rows, (Format("row of this task", fields, read),), source, rejected=rejected)

    def _messages(self, row: OwnRow) -> tuple[Message, ...]:
        user = Message("user", _render("message", self._message, row.columns))
        if self._system is None:
            return (user,)
        return Message("system", _render("system", self._system, row.columns)), user

    def _is_right(self, said: str, gold: str) -> bool:
        if self._own.metric == "exact":
            return said == gold
        if self._own.metric == "numeric":
            numbers = last_number(said), last_number(gold)
            return None not in numbers and math.isclose(*numbers, rel_tol=1e-9, abs_tol=1e-9)  # type: ignore[arg-type]
        return normalise(said) == normalise(gold)


def _render(key: str, template: jinja2.Template, columns: dict[str, str]) -> str:
    try:
        return template.render(columns)
    except Exception as error:  # expressions in a template can raise anything
        raise ConfigError(f"'{key}' cannot be rendered: {type(error).__name__}: {error}") from None


def _by_normal_form(labels: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for label in sorted(set(labels)):
        if (other := found.setdefault(normalise(label), label)) != label:
            raise DataError(
                f"the labels '{other}' and '{label}' differ only in case, spaces or underscores; rename one"
            )
    return found
