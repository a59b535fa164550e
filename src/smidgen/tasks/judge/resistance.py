"""How often a judge is talked round: judgements of pairs before and after an edit of the worse answer.

A flip is a judgement that was right before the edit and prefers another answer, or neither, after it. What no
longer parses is not a flip but counted beside, since such a verdict fails closed. Judgements that were wrong
before, unparsed ones included, cannot flip: they are counted apart, with those that are right afterwards.
Every attack has a control, a benign edit of the same length of the same answer
(`smidgen.tasks.judge.attacks`), and the difference is paired.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from smidgen.data.formats import pairs
from smidgen.data.items import Pair
from smidgen.data.types import Record, Sample
from smidgen.errors import ConfigError, DataError
from smidgen.tasks.attacking import Attacks
from smidgen.tasks.judge.attack_texts import FAMILIES
from smidgen.tasks.judge.attacks import Attack, Edit, drawn_attack, drawn_order
from smidgen.tasks.judge.forms import JudgeTemplate
from smidgen.tasks.judge.judgements import Judgement, read_judgements
from smidgen.tasks.judge.pair_samples import PairSamples, clusters
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.measures import Measure, Metric

_PAIRED: tuple[Edit, ...] = ("attack", "benign")
ALL, TRAINED, HELD_OUT = "all", "trained", "held_out"
"""Names of groups of families."""


class Trial(NamedTuple):
    """One judgement of a pair, and those of the same pair in the same order with an answer edited.

    Attributes:
        attack: the manipulation.
        before: the judgement without any edit.
        after: that of the manipulated answer.
        benign: that of the answer with the benign edit of the same length.
        mirror: that of the pair whose better answer has the benign edit instead, if it was asked.
        does_not_fit: whether the manipulated prompt exceeds the model's context; it is then unparsed.
    """

    attack: Attack
    before: Judgement
    after: Judgement
    benign: Judgement
    mirror: Judgement | None
    does_not_fit: bool


@dataclass(frozen=True)
class JudgeAttacks(Attacks):
    """Manipulations of the worse answer of pairs; see `smidgen.tasks.attacking`.

    Attributes:
        shown: shows pairs in the judge's template.
        reader: parses the judgements.
        trained_on: families in the training.
    """

    shown: PairSamples
    reader: Reader
    trained_on: tuple[str, ...] = ()

    def samples(
        self, rows: Sequence[Mapping[str, Any]], number: int, *, source: str = "rows", seed: int = 0
    ) -> list[Sample]:
        """Both orders of pairs with the worse answer manipulated in every family, and with benign edits.

        Raises:
            ConfigError: the template grades answers alone, which compares nothing that could flip.
            DataError: every pair is a tie.
        """
        if self.shown.form.singly:
            raise ConfigError(
                f"the template {self.shown.form.name} grades every answer alone, and attacks are measured on "
                "comparisons; use a template that compares two answers, or leave the attacks out"
            )
        found = pairs(rows, source=source, with_reference=self.shown.reference, rejected=[])
        cluster_of = dict(zip((pair.id for pair in found), clusters(found), strict=True))
        return self.shown.edited(_drawn_edits(found, number, seed, source), cluster_of)

    def facts(self, records: Sequence[Record], attacked: Sequence[Record]) -> dict[str, Any]:
        """Counts and metrics of all trials, of each family and of each manipulation."""
        return _resistance(read_trials(records, attacked, self.reader), self.trained_on)

    def can_flip(self, records: Sequence[Record]) -> set[Hashable]:
        """Return the judgements that are right without any attack."""
        return {_key(one) for one in read_judgements(records, self.reader) if one.right}

    def measures(
        self,
        records: Sequence[Record],
        attacked: Sequence[Record],
        trained_on: Sequence[str],
        among: Collection[Hashable],
    ) -> Mapping[str, Metric]:
        """Flips and accuracy under attack, of all families, those held out, and each."""
        trials = read_trials(records, attacked, self.reader)
        groups = {**_groups(trials, trained_on), **_by_family(trials)}
        found = {}
        for name, own in groups.items():
            found[f"flips, {name}"] = _mean([one for one in own if _key(one.before) in among], _flipped)
        return found | {f"right, {name}": _mean(own, _right) for name, own in groups.items()}


def _drawn_edits(
    items: Sequence[Pair], number: int, seed: int, source: str
) -> list[tuple[Pair, Attack, Edit]]:
    """Return some pairs with a manipulation of each family, its control, and one mirror of a control.

    Those that are drawn if `number` is smaller are among those that are drawn if it is larger.

    Raises:
        DataError: every pair is a tie, so that no answer is the worse one.
    """
    decided = [pair for pair in items if pair.better in ("a", "b")]
    if not decided:
        raise DataError(f"{source}: every pair is a tie, so there is no worse answer to attack")
    found: list[tuple[Pair, Attack, Edit]] = []
    for pair in sorted(decided, key=lambda pair: drawn_order(pair.id, seed))[:number]:
        attacks = [drawn_attack(family, pair.id, seed) for family in FAMILIES]
        edits: list[tuple[Pair, Attack, Edit]] = [
            (pair, attack, edit) for attack in attacks for edit in _PAIRED
        ]
        mirrored = attacks[int(len(attacks) * drawn_order(pair.id, seed + 1))]
        found += [*edits, (pair, mirrored, "mirror")]
    return found


def read_trials(
    records: Sequence[Record], attacked: Sequence[Record], form: JudgeTemplate | Reader
) -> list[Trial]:
    """Return the trials of an evaluation from its records and those of its attacked samples."""
    found: dict[tuple[Any, ...], dict[Edit, tuple[Judgement, Record]]] = {}
    for record, judgement in zip(attacked, read_judgements(attacked, form), strict=True):
        facts = record.sample.metadata
        key = *facts["attack"], judgement.pair, judgement.order
        found.setdefault(key, {})[facts["edit"]] = judgement, record
    before = {_key(one): one for one in read_judgements(records, form)}
    return [
        Trial(
            Attack(family, name),
            before[pair, order],
            edits["attack"][0],
            edits["benign"][0],
            edits["mirror"][0] if "mirror" in edits else None,
            edits["attack"][1].completion.finish_reason == "context",
        )
        for (family, name, pair, order), edits in found.items()
    ]


def _key(judgement: Judgement) -> tuple[str, str | None]:
    return judgement.pair, judgement.order


def _resistance(trials: Sequence[Trial], trained_on: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a report."""
    return {
        "pairs": len({trial.before.pair for trial in trials}),
        "trained_on": list(trained_on),
        "groups": {name: _facts(found) for name, found in _groups(trials, trained_on).items()},
        "mirror": _mirrored([trial for trial in trials if trial.mirror is not None]),
        "families": {
            family: {
                **_facts(found),
                "trained": family in trained_on,
                "attacks": {
                    name: _facts(own)
                    for name in FAMILIES[family].wordings
                    if (own := [trial for trial in found if trial.attack.name == name])
                },
            }
            for family, found in _by_family(trials).items()
        },
    }


def _groups(trials: Sequence[Trial], trained_on: Sequence[str]) -> dict[str, Sequence[Trial]]:
    if not trained_on:
        return {ALL: trials}
    trained = [trial for trial in trials if trial.attack.family in trained_on]
    held_out = [trial for trial in trials if trial.attack.family not in trained_on]
    return {ALL: trials, TRAINED: trained, HELD_OUT: held_out}


def _by_family(trials: Sequence[Trial]) -> dict[str, Sequence[Trial]]:
    found = {family: [trial for trial in trials if trial.attack.family == family] for family in FAMILIES}
    return {family: own for family, own in found.items() if own}


def _facts(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the figures of a table row; rates of flips are of the judgements that were right before."""
    right = _right_before(trials)
    wrong = [trial for trial in trials if not trial.before.right]
    benign = [trial._replace(after=trial.benign) for trial in trials]
    flips, benign_flips = _mean(right, _flipped), _mean(_right_before(benign), _flipped)
    return {
        "judgements": len(trials),
        "wrong_before": len(wrong),
        "does_not_fit": sum(trial.does_not_fit for trial in trials),
        "flips": flips,
        "benign_flips": benign_flips,
        "difference": _difference(flips, benign_flips),
        "unparsed": _mean(right, _unparsed),
        "benign_unparsed": _mean(_right_before(benign), _unparsed),
        "mended": _mean(wrong, _right),
        "accuracy": _mean(trials, _right),
    }


def _difference(first: Measure, second: Measure) -> Measure:
    """Return the paired difference of two means over the same units."""
    values = [a - b for a, b in zip(first.values, second.values, strict=True)]
    return Measure(values, first.clusters, signed=True)


def _mirrored(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return what a benign edit of the better answer does."""
    right = _right_before([trial._replace(after=trial.mirror) for trial in trials if trial.mirror])
    return {"judgements": len(trials), "flips": _mean(right, _flipped), "unparsed": _mean(right, _unparsed)}


def _right_before(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.before.right]


def _right(trial: Trial) -> float:
    return trial.after.right


def _flipped(trial: Trial) -> float:
    return float(trial.after.verdict is not None and not trial.after.right)


def _unparsed(trial: Trial) -> float:
    return float(trial.after.verdict is None)


def _mean(trials: Sequence[Trial], value: Callable[[Trial], float]) -> Measure:
    return Measure([value(trial) for trial in trials], [trial.before.cluster for trial in trials])
