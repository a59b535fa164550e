"""Several judges as one, or one that abstains; see `smidgen.tasks.judge.combination`.

ensemble = Ensemble(["smidgen:nano", EngineOptions("smidgen:smollm2", adapter="runs/judge/best")])
ensemble = load_ensemble("evaluation/ensemble.json")
with ensemble:
    found = ensemble.compare("What is 2 + 2?", "It is 4.", "It is 5.")
    print(found.verdict, found.confidence)  # the verdict of a calibrated ensemble may be `unsure`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from smidgen.data.formats import Label
from smidgen.data.types import Record
from smidgen.errors import ConfigError
from smidgen.evaluation.records import read_log, read_records, wall_clock
from smidgen.evaluation.speed import Speed, measure_speed
from smidgen.files import is_url, write_jsonl
from smidgen.inference import model_hash
from smidgen.judge.judging import Judge
from smidgen.judge.results import Said
from smidgen.judge.row_judgements import PairSamples, RowJudgements, Rows, pairs_file, sample_pairs
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions
from smidgen.tasks.judge.ballots import gather
from smidgen.tasks.judge.combination import Combination, Vote
from smidgen.tasks.judge.judgements import read_judgements
from smidgen.tasks.judge.saved_ensemble import SavedEnsemble, read_ensemble


@dataclass(frozen=True)
class Combined:
    """The verdict of an ensemble on one pair.

    Attributes:
        verdict: `a`, `b` or `tie`; `unsure` if the ensemble abstains; None if nothing parsed.
        leaning: what it would say if it did not abstain.
        confidence: from 0 to 1; see `smidgen.tasks.judge.combination.Decision`.
        consistent: whether every judgement parsed and all agree.
        judgements: number of judgements of all judges.
        unparsed: number of those that did not parse.
    """

    verdict: Label | Literal["unsure"] | None
    leaning: Label | None
    confidence: float
    consistent: bool
    judgements: int
    unparsed: int

    @classmethod
    def of(cls, votes: Sequence[Sequence[Vote]], combination: Combination) -> Self:
        """Combine the votes of each judge."""
        decision = combination.decide(votes)
        sides = [vote.verdict for judge in votes for vote in judge]
        return cls(
            verdict=decision.verdict,
            leaning=decision.leaning,
            confidence=decision.confidence,
            consistent=None not in sides and len(set(sides)) == 1,
            judgements=len(sides),
            unparsed=sides.count(None),
        )


@dataclass(frozen=True)
class EnsembleCompared(Combined):
    """The verdict on a pair with every judgement, by judge, the tokens used and the seconds taken."""

    said: tuple[tuple[Said, ...], ...] = ()
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class CombinedPair(Combined):
    """The verdict on a pair of a file; `id` is that of the pair."""

    id: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {"id": self.id, **{name: value for name, value in vars(self).items() if name != "id"}}


class Ensemble:
    """Judges with the same template and settings, whose judgements are combined."""

    def __init__(
        self,
        judges: Sequence[EngineOptions | str],
        judging: JudgeOptions = JudgeOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        combination: Combination = Combination(),
    ):
        """Create the judges; each model is loaded on first use.

        Args:
            judges: the models and their engines; a string is the name of a model.
            judging: the template, and the number of samples per order of each judge.
            sampling: maximum length and sampling settings.
            combination: weights and threshold, if they were calibrated; else the majority decides.

        Raises:
            ConfigError: there is no judge, or as in `Judge`.
        """
        if not judges:
            raise ConfigError("the ensemble has no judge; expected one model or more")
        self.judges = tuple(Judge(judge, judging, sampling) for judge in judges)
        self.combination = combination
        self._judging = judging

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the models."""
        for judge in self.judges:
            judge.close()

    def compare(self, prompt: str, a: str, b: str, *, reference: str | None = None) -> EnsembleCompared:
        """Compare two answers with every judge; raises as `Judge.compare` does."""
        found = [judge.compare(prompt, a, b, reference=reference) for judge in self.judges]
        votes = [compared.said for compared in found]
        return EnsembleCompared(
            **vars(Combined.of(votes, self.combination)),
            said=tuple(votes),
            tokens=sum(compared.tokens for compared in found),
            seconds=sum(compared.seconds for compared in found),
        )

    def judge_rows(
        self, rows: Rows, out: Path | str, selection: RowOptions = RowOptions()
    ) -> "EnsembleJudgements":
        """Judge pairs from a file or a list of rows with one judge after the other.

        Args:
            rows: as in `Judge.judge_rows`.
            out: the file of judgements; with several judges each has its own, `<out>.judge-1.jsonl` and so
                on. They resume if they exist.
            selection: which rows to use.

        Raises:
            ConfigError, DataError: as in `Judge.judge_rows`.
        """
        pairs = sample_pairs(self.judges[0].task, rows, selection, self._judging.samples)
        return EnsembleJudgements(self, pairs, Path(out))


class EnsembleJudgements:
    """An iterator over the judgements of all judges, each of which is written before it is returned.

    Attributes:
        out: as given to `Ensemble.judge_rows`. `verdicts` also writes `<out>.pairs.jsonl`.
        total: number of judgements when all are done.
        known: number of judgements that were already in the files.
        rejected: the fault of each row that was skipped.
        labelled: whether at least one row has a label.
        records: the judgements so far.
    """

    def __init__(self, ensemble: Ensemble, pairs: PairSamples, out: Path):
        """Judge the pairs with every judge."""
        self.out, self.rejected = out, pairs.rejected
        self.total = len(pairs.samples) * len(ensemble.judges)
        self.labelled = any(sample.metadata["label"] for sample in pairs.samples)
        stem, many = out.name.removesuffix(".jsonl"), len(ensemble.judges) > 1
        self.files = [
            out.with_name(f"{stem}.judge-{number}.jsonl") if many else out
            for number in range(1, len(ensemble.judges) + 1)
        ]
        self.known = sum(len(read_records(file)) for file in self.files if file.exists())
        self._ensemble, self._pairs = ensemble, pairs
        self._by_judge: list[list[Record]] = []
        self._peaks: list[int] = []
        self._pending = self._all()

    def __iter__(self) -> Iterator[Record]:
        return self._pending

    @property
    def records(self) -> list[Record]:
        """The judgements so far, of all judges."""
        return [record for records in self._by_judge for record in records]

    def verdicts(self) -> list[CombinedPair]:
        """Finish all judgements, then return one verdict per pair, in the order of the rows."""
        for _ in self:
            pass
        form, order = self._ensemble.judges[0].form, [sample.id for sample in self._pairs.samples]
        judgements = []
        for records in self._by_judge:
            by_id = {record.sample.id: record for record in records}
            judgements.append(read_judgements([by_id[name] for name in order], form))
        verdicts = [
            CombinedPair(**vars(Combined.of(ballot.votes, self._ensemble.combination)), id=ballot.pair)
            for ballot in gather(judgements)
        ]
        write_jsonl(pairs_file(self.out), [found.to_json() for found in verdicts])
        return verdicts

    def speed(self) -> Speed:
        """Measure the speed of the judgements over all sessions that contributed to the files."""
        timings = [record.completion.timing for record in self.records]
        seconds = sum(wall_clock(read_log(file)) for file in self.files)
        return measure_speed(timings, seconds, peak_memory_bytes=max(self._peaks, default=None))

    def _all(self) -> Iterator[Record]:
        for judge, file in zip(self._ensemble.judges, self.files, strict=True):
            with judge:  # one model at a time is in memory
                found: RowJudgements = judge.judge_pairs(self._pairs, file)
                self._by_judge.append(found.records)
                yield from found
                if (peak := found.peak_memory_bytes()) is not None:
                    self._peaks.append(peak)


def saved_judges(path: Path, engine: EngineOptions) -> tuple[SavedEnsemble, list[EngineOptions]]:
    """Read a saved ensemble and its judges.

    Args:
        path: the file.
        engine: gives what does not decide what a judge says: the number of rows decoded together and, for
            servers, the API key and the timeout.

    Raises:
        ConfigError: a judge or the template is not the one that was calibrated.
        DataError: the file is missing, or is no ensemble.
    """
    saved = read_ensemble(path)
    own: dict[str, Any] = {"batch_size": engine.batch_size, "workers": engine.workers}
    for_servers = {"api_key_env": engine.api_key_env, "timeout": engine.timeout}
    has_server = any(is_url(judge.model) for judge in saved.judges)  # else the engine refuses them
    judges = [
        EngineOptions(
            **judge.options(), **own, **(for_servers if is_url(judge.model) or not has_server else {})
        )
        for judge in saved.judges
    ]
    saved.check(path, [model_hash(judge) for judge in judges])
    return saved, judges


def load_ensemble(path: Path | str, engine: EngineOptions = EngineOptions()) -> Ensemble:
    """Load an ensemble that `smidgen evaluate judge --calibrate … --out FOLDER` saved in its folder.

    Args:
        path: its `ensemble.json`.
        engine: as in `saved_judges`.

    Raises:
        ConfigError: as in `saved_judges`, the judges do not generate, or no threshold keeps the chosen risk.
        DataError: the file is missing, or is no ensemble.
    """
    path = Path(path)
    saved, judges = saved_judges(path, engine)
    asking, found = saved.asking, saved.calibrated
    if asking.method != "generate":
        raise ConfigError(
            f"{path} was calibrated with --method {asking.method}, and pairs without labels are judged by "
            "generation; calibrate again without it"
        )
    if found.threshold is not None and not found.threshold.is_reached:
        raise ConfigError(
            f"no threshold of {path} keeps the risk of {found.threshold.risk:g}, so it would answer nothing; "
            "calibrate with more rows, a higher risk or better judges"
        )
    judging = JudgeOptions(
        template=asking.settings.get("template", asking.template),
        reference=asking.settings.get("reference", False),
        samples=asking.samples,
    )
    sampling = SamplingOptions(asking.max_tokens, asking.temperature, asking.seed)
    return Ensemble(judges, judging, sampling, found.combination)
