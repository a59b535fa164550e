"""The samples of pairs: both orders of each, its answers one by one, or its worse answer attacked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.data.items import Label, Pair
from smidgen.data.types import Sample
from smidgen.tasks.judge.attacks import Attack, attacked
from smidgen.tasks.judge.forms import Case, JudgeTemplate
from smidgen.tasks.judge.judgements import ORDERS, SHOWN


@dataclass(frozen=True)
class PairSamples:
    """Shows pairs in a template, with their references or without."""

    form: JudgeTemplate
    reference: bool

    def of(self, items: Sequence[Pair]) -> list[Sample]:
        """Both orders of every pair, or every answer once if the template grades them alone."""
        return self._of_answers(items) if self.form.singly else self._in_both_orders(items)

    def one(self, pair: Pair, shown: str, cluster: str, *, target: str | None = None) -> Sample:
        """A sample of a pair in one order, or of one of its answers; pairs of one prompt share a cluster."""
        texts = {"a": pair.a, "b": pair.b}
        reference = pair.reference if self.reference else None
        metadata: dict[str, Any] = {
            "pair": pair.id,
            "label": pair.better,
            "cluster": cluster,
            "subset": pair.subset,
            "characters": [len(pair.a), len(pair.b)],
        }
        if pair.annotators:
            metadata["annotators"] = list(pair.annotators)
        if pair.facts:
            metadata["facts"] = dict(pair.facts)
        if self.form.singly:
            case = Case(pair.prompt, texts[shown], None, reference)
            metadata["answer"] = shown
        else:
            first, second = SHOWN[shown]
            case = Case(pair.prompt, texts[first], texts[second], reference)
            metadata |= {"order": shown, "better": _better_position(pair.better, shown)}
        return Sample(f"{pair.id}#{shown}", self.form.messages(case), target, metadata)

    def attacked(self, drawn: Sequence[tuple[Pair, str, Attack]]) -> list[Sample]:
        """Both orders of pairs with the worse answer manipulated, each followed by its benign edit.

        Their ids are those of the samples of the pair with the name of the edit before the order.

        Args:
            drawn: pairs with their clusters and attacks.
        """
        return [
            self._edited(pair, cluster, attack, order, benign=benign)
            for pair, cluster, attack in drawn
            for order in ORDERS
            for benign in (False, True)
        ]

    def _edited(self, pair: Pair, cluster: str, attack: Attack, order: str, *, benign: bool) -> Sample:
        sample = self.one(attacked(pair, order, attack, self.form, benign=benign), order, cluster)
        name = f"{pair.id}~{attack.family}.{attack.name}{'.benign' * benign}#{order}"
        return replace(sample, id=name, metadata={**sample.metadata, "attack": [*attack], "benign": benign})

    def _in_both_orders(self, items: Sequence[Pair]) -> list[Sample]:
        return [
            self.one(pair, shown, cluster)
            for pair, cluster in zip(items, clusters(items), strict=True)
            for shown in ORDERS
        ]

    def _of_answers(self, items: Sequence[Pair]) -> list[Sample]:
        """Every answer once, with the pairs that it is part of."""
        parts: dict[str, list[tuple[Pair, str, str]]] = {}
        for pair, cluster in zip(items, clusters(items), strict=True):
            for shown, name in zip(("a", "b"), pair.answer_ids or (pair.id, pair.id), strict=True):
                parts.setdefault(f"{name}#{shown}", []).append((pair, shown, cluster))
        # An answer in pairs of two subsets belongs to neither, so the subset is dropped from all samples.
        is_mixed = any(len({pair.subset for pair, _, _ in found}) > 1 for found in parts.values())
        samples = []
        for name, found in parts.items():
            sample = self.one(*found[0])
            metadata = {**sample.metadata, "pairs": [pair.id for pair, _, _ in found]}
            if is_mixed:
                metadata["subset"] = None
            samples.append(replace(sample, id=name, metadata=metadata))
        return samples


def clusters(items: Sequence[Pair]) -> list[str]:
    """Return for each pair the id of the first one with its prompt."""
    prompts: dict[str, str] = {}
    return [prompts.setdefault(pair.prompt, pair.id) for pair in items]


def _better_position(label: Label | None, order: str) -> str | None:
    """Return the position of the better answer in the given order."""
    if label in ("a", "b"):
        return "first" if order[0] == label else "second"
    return label
