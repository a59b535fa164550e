"""The judge task: which of two answers is better, in both orders, or how good one answer is.

Prompts and parsers are in the templates (`smidgen.tasks.judge.published_templates`), metrics in
`smidgen.tasks.judge.judgements`.

Deliberate differences from published harnesses: every pair is judged in both orders, thinking and quotations
are not parsed, contradictory verdicts do not count, and unparsed judgements are wrong and counted separately.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field

from smidgen.config import Section
from smidgen.data.examples import Example, pair_example
from smidgen.data.formats import PAIR_FORMATS, Pair, pair_row, pairs
from smidgen.data.preferences import judge_rows
from smidgen.data.rows import place_of
from smidgen.data.types import Completion, Constraint, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.errors import DataError
from smidgen.tasks.judge.attacks import check_training, partly_attacked
from smidgen.tasks.judge.baselines import judge_baselines
from smidgen.tasks.judge.by_logits import ByLogits
from smidgen.tasks.judge.calibration import calibration
from smidgen.tasks.judge.disagreements import find_disagreements
from smidgen.tasks.judge.ensemble_evidence import alone_measures, judge_alone
from smidgen.tasks.judge.forms import JudgeParseError, JudgeTemplate, Verdict, verdict_alone
from smidgen.tasks.judge.gold import gold_of_pairs, gold_target
from smidgen.tasks.judge.judge_rewards import JudgeRewards, pair_groups
from smidgen.tasks.judge.judge_words import USAGE, WORDS, asked_in_words
from smidgen.tasks.judge.judgements import ORDERS, measures, read_judgements
from smidgen.tasks.judge.pair_samples import PairSamples, clusters
from smidgen.tasks.judge.published import as_published, score_tables
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.references import check_reference, drop_references
from smidgen.tasks.judge.resistance import JudgeAttacks
from smidgen.tasks.judge.resistance_section import resistance_table
from smidgen.tasks.judge.rubric import Rubric
from smidgen.tasks.judge.sections import judge_remarks, judge_sections
from smidgen.tasks.judge.targets import check_targets, target_of
from smidgen.tasks.measures import Metric
from smidgen.tasks.rewards import GroupReward
from smidgen.tasks.task import Analyses, Answerer, Completer, Row, ScoreTable, Task
from smidgen.tasks.templates import find_form

WITH_REFERENCE = " with reference"
"""Suffix of the variant of a judge that is shown reference answers."""


class JudgeSettings(Section):
    """Template and inputs of a judge."""

    template: str = Rubric.name
    """`rubric`, `scores`, `single`, `verdict`, `grade`, or a TOML file with a custom template."""
    reference: bool = False
    """Show the judge the reference answer of each row."""
    reference_drop: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that a training row is shown without its reference, so that the judge learns to do without
    (reference drop of https://arxiv.org/abs/2310.17631); needs `reference = true`."""
    rubric: str | None = None
    """Rubric of the template `grade`: a question and the meaning of each grade."""
    attacks: tuple[str, ...] = ()
    """Families of manipulations (docs/attacks.md) that the judge is trained to resist; the others are held
    out, and reported apart. Needs `attack_share`."""
    attack_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the training pairs whose worse answer is manipulated; as many better answers, drawn
    independently, get a benign edit, so that an edit does not tell which is worse. Needs `attacks`."""


class JudgeTask(Task):
    """Compare two answers or grade one, with a given template."""

    name = "judge"
    version = 3
    words = WORDS
    usage = USAGE
    settings_table = JudgeSettings
    formats = PAIR_FORMATS

    def __init__(
        self, form: JudgeTemplate | None = None, *, reference: bool = False, reference_drop: float = 0.0
    ):
        """Judge with the template `form`; `reference` shows the reference answer that each row then needs.

        Raises:
            ConfigError: as in `check_reference`.
        """
        self.form = form or Rubric()
        check_reference(self.form, reference, reference_drop)
        self._drop = reference_drop
        self._reader = Reader(self.form)
        self._shown = PairSamples(self.form, reference)
        self.reference = reference
        self.stop: tuple[str, ...] = self.form.stop
        self.stop_after: tuple[str, ...] = self.form.stop_after
        self.variant = self.form.name + WITH_REFERENCE * reference
        self.has_right_answers = not self.form.singly
        self.settings = JudgeSettings(
            template=self.form.name, reference=reference, reference_drop=reference_drop
        )

    @classmethod
    def from_settings(cls, settings: JudgeSettings) -> Self:
        """Create the judge from its settings; raises as `find_form` does."""
        form = find_form(settings.template, rubric=settings.rubric)
        check_training(settings.attacks, settings.attack_share)
        task = cls(form, reference=settings.reference, reference_drop=settings.reference_drop)
        task.settings = settings
        return task

    @property
    def constraint(self) -> Constraint | None:
        """The template's constraint on whole completions, or else the verdict without preceding words."""
        return self.form.constraint or (verdict_alone(self.form) if self.form.has_answers else None)

    @property
    def attacks(self) -> JudgeAttacks:
        """Manipulations of the worse answer of pairs."""
        settings = self.settings
        assert isinstance(settings, JudgeSettings)
        return JudgeAttacks(self._shown, self._reader, settings.attacks)

    @property
    def methods(self) -> tuple[str, ...]:
        """`generate`, and `logits` if the template lists its possible answers."""
        return ("generate", "logits") if self.form.has_answers else ("generate",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """The engine itself, or log-probability scoring of the possible answers."""
        return ByLogits(engine, self.form) if method == "logits" else engine

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Pairs of answers to questions about the generated world, with gold judgements."""
        return list(judge_rows(split, limit or WORLD_ROWS[split], seed))

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The pairs."""
        found = pairs(rows, source=source, with_reference=self.reference, rejected=rejected)
        return [pair_example(pair) for pair in found]

    def show(self, row: Row) -> dict[str, Any]:
        """The question with both answers."""
        pair = pairs([row])[0]
        return {"prompt": pair.prompt, "a": pair.a, "b": pair.b, "better": pair.better}

    def samples(
        self,
        rows: Sequence[Row],
        *,
        source: str = "rows",
        labelled: bool = True,
        rejected: list[str] | None = None,
    ) -> list[Sample]:
        """Both orders of every pair, or every answer once if the template grades them alone.

        Their ids are that of the pair followed by `#ab` and `#ba`, or by `#a` and `#b`. If the pairs of a row
        share answers, these have ids of their own (`Pair.answer_ids`) instead of the pair's. For `labelled`
        and `rejected` see `smidgen.data.formats.pairs`.
        """
        items = pairs(
            rows, source=source, labelled=labelled, with_reference=self.reference, rejected=rejected
        )
        return self._shown.of(items)

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """Pair rows, one for each pair, with the gold judgements of rows that contain one pair each.

        Raises:
            DataError: as in `pairs`, or a row with a gold judgement is among rows of several pairs.
        """
        found = pairs(rows, source=source, with_reference=self.reference)
        gold = gold_of_pairs(rows, len(found), source)
        return [(pair.prompt, pair_row(pair) | judged) for pair, judged in zip(found, gold, strict=True)]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """Both orders of every pair with their targets, so that the position tells nothing.

        Args:
            rows: labelled pairs in any format if the template has a completion that is only a verdict; for
                `scores`, with the scores of both. For `rubric`, pair rows with gold judgements: `criteria`
                (list of text), `analysis` ({"ab": text, "ba": text}, one per order) and `scores` (integers
                for `a` and `b`).
            source: names the rows in errors.
            seed: of the draw of the rows whose reference is dropped.

        Raises:
            ConfigError: the template is neither.
            DataError: a row has no label or gold judgement, or one that contradicts its label.
        """
        if self.form.name != Rubric.name:
            return self._verdict_samples(rows, source, seed)
        found = self._trained_pairs(rows, source, seed)
        if len(found) != len(rows):
            raise DataError(
                f"{source}: {len(rows)} rows contain {len(found)} pairs; training needs one pair per row, "
                "with a gold judgement"
            )
        return [
            self._shown.one(
                self._as_trained(pair, order, seed),
                order,
                pair.id,
                target=gold_target(pair, row, order, f"{source}: {place_of(row, number)}"),
            )
            for number, (pair, row) in enumerate(zip(found, rows, strict=True), start=1)
            for order in ORDERS
        ]

    def training_prompts(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """Both orders of labelled pairs without targets, otherwise as in `training_samples`."""
        if self.form.singly:
            return self.samples(rows, source=source)
        found = self._trained_pairs(rows, source, seed)
        return [
            self._shown.one(self._as_trained(pair, order, seed), order, cluster)
            for pair, cluster in zip(found, clusters(found), strict=True)
            for order in ORDERS
        ]

    def _trained_pairs(self, rows: Sequence[Row], source: str, seed: int) -> list[Pair]:
        """The pairs to train on, some of them without their reference."""
        found = pairs(rows, source=source, with_reference=self.reference)
        if not self._drop:
            return found
        bare = {pair.id: pair for pair in pairs(rows, source=source, labelled=False)}
        return drop_references(found, bare, self._drop, seed)

    def _as_trained(self, pair: Pair, order: str, seed: int) -> Pair:
        """The pair as it is trained on in one order: maybe with its worse answer manipulated."""
        settings = self.settings
        assert isinstance(settings, JudgeSettings)
        share = settings.attack_share
        return partly_attacked(pair, order, self.form, settings.attacks, share=share, seed=seed)

    def _verdict_samples(self, rows: Sequence[Row], source: str, seed: int) -> list[Sample]:
        """Both orders of labelled pairs, whose target is the verdict alone."""
        check_targets(self.form)
        found = self._trained_pairs(rows, source, seed)
        return [
            self._shown.one(
                self._as_trained(pair, order, seed),
                order,
                cluster,
                target=target_of(self.form, pair, order, source),
            )
            for pair, cluster in zip(found, clusters(found), strict=True)
            for order in ORDERS
        ]

    def parse(self, text: str) -> Verdict | float:
        """Parse a completion with the template; raises `JudgeParseError`."""
        return self._reader.parse(text)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the verdict equals the label in the order of this sample; grades always get 0."""
        try:
            said = self.parse(completion.text)
        except JudgeParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        if not isinstance(said, Verdict):
            return Score(0.0, f"{said:g}", parsed=True)
        scores = f"{said.first:g}, {said.second:g}" if said.first is not None else ""
        right = said.preferred == sample.metadata["better"]
        return Score(float(right), said.preferred, parsed=True, explanation=scores)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all orders, then consistency, biases, failure rates and what its confidence tells."""
        found = read_judgements(records, self._reader)
        return measures(found) | ({} if self.form.singly else alone_measures(found))

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of always choosing the longer or the first answer, and of chance; never ties."""
        return judge_baselines(samples, singly=self.form.singly)

    @property
    def rewards(self) -> Mapping[str, GroupReward]:
        """The score, and for pairs the consistency of both orders and the margin of scores, if it has any."""
        if self.form.singly:
            return super().rewards
        own = JudgeRewards(self._reader, self.form.scale)
        found: dict[str, GroupReward] = {**super().rewards, "consistency": own.consistency}
        return found if self.form.scale is None else found | {"margin": own.margin}

    def reward_groups(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Both orders of a pair together."""
        return super().reward_groups(samples) if self.form.singly else pair_groups(samples)

    def analyses(self, records: Sequence[Record], rows: Sequence[Row], *, model: str) -> Analyses:
        """Calibration, when to abstain, disagreements between orders, and published benchmark scores."""
        found = read_judgements(records, self._reader)
        by_id = {pair.id: pair for pair in pairs(rows, with_reference=self.reference, rejected=[])}
        facts: dict[str, Any] = {"calibration": calibration(found)}
        if not self.form.singly:
            facts["abstention"] = judge_alone(found)
            facts["disagreements"] = find_disagreements(records, found, by_id)
        published, files = as_published(records, found, by_id, form=self._reader, model=model)
        return Analyses({**facts, "published": published}, files)

    @classmethod
    def resistance_table(cls, report: Mapping[str, Any]) -> ScoreTable | None:
        """Flips under attack by family, from the content of `report.json`."""
        return resistance_table(report)

    @classmethod
    def score_tables(cls, report: Mapping[str, Any]) -> list[ScoreTable]:
        """The scores of RewardBench, RewardBench 2 and RM-Bench."""
        return score_tables(report)

    @classmethod
    def sections(cls, report: Mapping[str, Any]) -> list[str]:
        """The judge's sections of a report; see `smidgen.tasks.judge.sections`."""
        return judge_sections(report)

    @classmethod
    def asked(cls, report: Mapping[str, Any]) -> str | None:
        """The number of pairs, and whether they were judged in both orders."""
        return asked_in_words(report)

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """The judge's position bias, if its interval excludes one half, and what its threshold keeps."""
        return judge_remarks(report)
