"""The rubric judge: which of two answers is better, asked in both orders.

The judge writes criteria for this very request, an analysis, and a boxed pair of scores, the form of
self-principled critique (https://arxiv.org/abs/2504.02495). Tags, markers and box are those of the judges
that already speak this form, so their weights and ours can be swapped; the wording is our own, and short,
since a small model pays for every token of it. Everything constant stands in the system message, so that all
prompts share a prefix.

Deliberately different from published harnesses: every pair is asked in both orders, thinking is never read,
the last complete scores block counts, and an answer that does not parse is wrong and counted apart. Equal
scores prefer neither answer.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self

from smidgen.data.formats import Pair, pairs, place_of
from smidgen.data.types import Completion, Message, Record, Sample, Score
from smidgen.errors import DataError, ParseError
from smidgen.tasks.task import Measure, Metric

SYSTEM = (
    "Judge two responses to one request. Their order and length do not count. Answer in three blocks: "
    "<specific_criteria>what matters here</specific_criteria> "
    "<analysis>how each response does</analysis> "
    "<scores>\\boxed{a, b}</scores> "
    "where a scores Response A and b scores Response B, from 1 (bad) to 10 (perfect)."
)

LOWEST, HIGHEST = 1, 10

_USER = """\
#### Conversation Context ####
{prompt}
#### Responses to be Scored ####
[The Begin of Response A]
{a}
[The End of Response A]
[The Begin of Response B]
{b}
[The End of Response B]"""

_COMPLETION = """\
<specific_criteria>{criteria}</specific_criteria>
<analysis>{analysis}</analysis>
<scores>
\\boxed{{{a}, {b}}}
</scores>"""

_NUMBER = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
_BOXED = re.compile(rf"\\boxed\s*\{{{{1,2}}\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\}}")
_BARE = re.compile(rf"(?<![0-9.]){_NUMBER}\s*(?:/\s*10)?\s*,\s*{_NUMBER}(?![0-9.]*[0-9])")

Order = Literal["ab", "ba"]
ORDERS: tuple[Order, Order] = ("ab", "ba")


class Fault(StrEnum):
    """Why a judge's text has no scores."""

    ENDLESS_THINKING = "the thinking never ends"
    NO_BLOCK = "no scores block"
    TRUNCATED = "the scores block is not closed"
    NO_PAIR = "no boxed pair in the scores block"
    OUT_OF_RANGE = f"a score is not between {LOWEST} and {HIGHEST}"


class JudgeParseError(ParseError):
    """A judge's text has no scores; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Scores(NamedTuple):
    """What a judge gave the two responses, in the order in which it was shown them."""

    first: float
    second: float

    @property
    def preferred(self) -> Literal["first", "second", "tie"]:
        """The response with the higher score; a `tie` prefers neither."""
        if self.first == self.second:
            return "tie"
        return "first" if self.first > self.second else "second"


def render_messages(prompt: str, first: str, second: str) -> tuple[Message, ...]:
    """What a judge is shown: the responses stand as A and B in the order given."""
    content = _USER.format(prompt=prompt, a=first, b=second)
    return Message("system", SYSTEM), Message("user", content)


def gold_completion(criteria: Sequence[str], analysis: str, scores: tuple[int, int]) -> str:
    """The text a judge should write.

    Args:
        criteria: what matters for this request, a few words each.
        analysis: how each response does, naming them Response A and Response B in the order shown.
        scores: of the response shown first and of the one shown second.

    Raises:
        DataError: a part is missing, or `read_scores` would not read the text.
    """
    text = _COMPLETION.format(criteria="; ".join(criteria), analysis=analysis, a=scores[0], b=scores[1])
    if not criteria or not analysis.strip():
        raise DataError("a gold completion needs at least one criterion and an analysis")
    try:
        read_scores(text)
    except JudgeParseError as error:
        raise DataError(f"a gold completion with the scores {scores} would not parse: {error}") from None
    return text


def read_scores(text: str) -> Scores:
    """Read the last boxed pair of the last complete scores block, outside of any thinking.

    Raises:
        JudgeParseError: there is no such pair, or it is out of range.
    """
    return _scores(_BOXED.findall(_last_block(_without_thinking(text))))


def read_scores_leniently(text: str) -> Scores:
    """As `read_scores`, else the last boxed pair anywhere, else the last two numbers around a comma.

    It tells how much of a failure is form and how much is judgement; it never decides whether an answer is
    right.

    Raises:
        JudgeParseError: even so there is no pair.
    """
    try:
        return read_scores(text)
    except JudgeParseError:
        answer = _without_thinking(text)
        return _scores(_BOXED.findall(answer) or _BARE.findall(answer))


def _scores(found: Sequence[tuple[str, str]]) -> Scores:
    """The last of the pairs found, if it is in range."""
    if not found:
        raise JudgeParseError(Fault.NO_PAIR)
    scores = Scores(*(float(number) for number in found[-1]))
    if not all(LOWEST <= score <= HIGHEST for score in scores):
        raise JudgeParseError(Fault.OUT_OF_RANGE)
    return scores


def _without_thinking(text: str) -> str:
    """Drop what a model thought, whoever opened the block, and whether or not it was closed."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    text = text.rpartition("</think>")[2]
    answer, opened, _ = text.partition("<think>")
    if opened and not answer.strip():
        raise JudgeParseError(Fault.ENDLESS_THINKING)
    return answer


def _last_block(answer: str) -> str:
    """The inside of the last scores block that is closed."""
    end = answer.rfind("</scores>")
    start = answer.rfind("<scores>", 0, max(end, 0))
    if start == -1:
        raise JudgeParseError(Fault.TRUNCATED if "<scores>" in answer else Fault.NO_BLOCK)
    start += len("<scores>")
    return answer[start : answer.index("</scores>", start)]


class Judge:
    """Which of two answers is better, with a rubric of its own making."""

    name: str = "judge"
    version: int = 1
    stop: tuple[str, ...] = ()  # a stop string would be cut from the text that the parser needs

    def prepare(self, rows: Sequence[Mapping[str, Any]]) -> Self:
        """A judge learns nothing from rows."""
        return self

    def samples(self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows") -> list[Sample]:
        """Both orders of every pair, with ids `{pair}#ab` and `{pair}#ba`."""
        items = pairs(rows, source=source)
        prompts: dict[str, str] = {}
        return [
            _sample(pair, order, cluster=prompts.setdefault(pair.prompt, pair.id))
            for pair in items
            for order in ORDERS
        ]

    def training_samples(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        source: str = "rows",
        seed: int = 0,
    ) -> list[Sample]:
        """Samples with targets, from rows that carry gold: `criteria`, `analysis` and `scores`.

        Args:
            rows: pair rows with `criteria` (list of text), `analysis` ({"ab": text, "ba": text}, one for each
                order) and `scores` (whole numbers for `a` and `b`).
            source: names the rows in errors.
            seed: not used; both orders of every pair are trained on.

        Raises:
            DataError: a row has no gold, or gold that contradicts its label.
        """
        return [
            _sample(pair, order, target=_target(pair, row, order, f"{source}: {place_of(row, number)}"))
            for number, (pair, row) in enumerate(zip(pairs(rows, source=source), rows, strict=True), start=1)
            for order in ORDERS
        ]

    def parse(self, text: str) -> Scores:
        """The scores in a completion; raises `JudgeParseError`."""
        return read_scores(text)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the better response got the higher score, in the order of this sample."""
        try:
            scores = self.parse(completion.text)
        except JudgeParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        right = scores.preferred == sample.metadata["better"]
        return Score(
            float(right), scores.preferred, parsed=True, explanation=f"{scores.first:g}, {scores.second:g}"
        )

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over orders first; the rates of everything that can go wrong beside it."""
        clusters = [record.sample.metadata["cluster"] for record in records]
        both = _complete_pairs(records)
        pair_clusters = [ab.sample.metadata["cluster"] for ab, _ in both]
        decided = [record for record in records if record.score.answer in ("first", "second")]
        return {
            "accuracy": Measure([record.score.value for record in records], clusters),
            "accuracy_both_orders": Measure(
                [float(ab.score.value == ba.score.value == 1.0) for ab, ba in both], pair_clusters
            ),
            "consistency": Measure([float(_consistent(ab, ba)) for ab, ba in both], pair_clusters),
            "prefer_first_rate": Measure(
                [float(record.score.answer == "first") for record in decided],
                [record.sample.metadata["cluster"] for record in decided],
            ),
            "tie_rate": Measure([float(record.score.answer == "tie") for record in records], clusters),
            "unparsed_rate": Measure([float(not record.score.parsed) for record in records], clusters),
            "accuracy_lenient": Measure([float(_leniently_right(record)) for record in records], clusters),
            "accuracy_decided": Measure(
                [record.score.value for record in decided],
                [record.sample.metadata["cluster"] for record in decided],
            ),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of preferring the longer response, and of preferring the first."""
        clusters = [sample.metadata["cluster"] for sample in samples]
        return {
            "longer": Measure([_longer_is_right(sample) for sample in samples], clusters),
            "first": Measure([float(sample.metadata["better"] == "first") for sample in samples], clusters),
        }

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """How often the text failed to parse, by reason."""
        faults = Counter(record.score.explanation for record in records if not record.score.parsed)
        return {"unparsed": dict(faults.most_common())}


def _sample(pair: Pair, order: Order, *, cluster: str | None = None, target: str | None = None) -> Sample:
    """One order of a pair; pairs with one prompt share a cluster."""
    first, second = (pair.a, pair.b) if order == "ab" else (pair.b, pair.a)
    metadata = {
        "pair": pair.id,
        "order": order,
        "better": "first" if order.startswith(pair.better) else "second",
        "cluster": cluster or pair.id,
        "subset": pair.subset,
        "characters": [len(first), len(second)],
    }
    return Sample(f"{pair.id}#{order}", render_messages(pair.prompt, first, second), target, metadata)


def _target(pair: Pair, row: Mapping[str, Any], order: Order, where: str) -> str:
    """The gold completion of a row for one order."""
    criteria, analysis, scores = row.get("criteria"), row.get("analysis"), row.get("scores")
    if not isinstance(criteria, list) or not criteria or not all(isinstance(item, str) for item in criteria):
        raise DataError(f"{where}: 'criteria' is {criteria!r}; training needs a list of texts")
    if not isinstance(analysis, dict) or not isinstance(analysis.get(order), str):
        raise DataError(f"{where}: 'analysis' has no text for '{order}'; training needs one for each order")
    if (
        not isinstance(scores, list | tuple)
        or len(scores) != 2
        or not all(type(score) is int for score in scores)
    ):
        raise DataError(f"{where}: 'scores' is {scores!r}; training needs two whole numbers, for a and for b")
    a, b = scores
    if a == b or (a > b) != (pair.better == "a"):
        raise DataError(f"{where}: 'scores' is {scores!r} but 'better' is '{pair.better}'; they must agree")
    try:
        return gold_completion(criteria, analysis[order], (a, b) if order == "ab" else (b, a))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _complete_pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The two orders of every pair that has both."""
    by_pair: dict[str, dict[str, Record]] = {}
    for record in records:
        by_pair.setdefault(record.sample.metadata["pair"], {})[record.sample.metadata["order"]] = record
    return [(orders["ab"], orders["ba"]) for orders in by_pair.values() if len(orders) == 2]


def _consistent(ab: Record, ba: Record) -> bool:
    """Whether both orders prefer the same response; two failures or two ties prefer none, so they are not."""
    return {ab.score.answer, ba.score.answer} == {"first", "second"}


def _leniently_right(record: Record) -> bool:
    """Whether the answer is right when its form is forgiven."""
    try:
        return read_scores_leniently(record.completion.text).preferred == record.sample.metadata["better"]
    except JudgeParseError:
        return False


def _longer_is_right(sample: Sample) -> float:
    """Whether the response with more characters is the better one; a half where a guess must decide."""
    first, second = sample.metadata["characters"]
    return 0.5 if first == second else float((first > second) == (sample.metadata["better"] == "first"))
