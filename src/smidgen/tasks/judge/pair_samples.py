"""The samples of pairs: both orders of each, its answers one by one, or its worse answer attacked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.data.items import Label, Pair
from smidgen.data.types import Sample
from smidgen.tasks.judge.attacks import Attack, Edit, edited
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

    def edited(
        self, drawn: Sequence[tuple[Pair, Attack, Edit]], cluster_of: Mapping[str, str]
    ) -> list[Sample]:
        """Both orders of edited pairs; their ids name the edit between the pair and the order.

        Args:
            drawn: pairs with an edit of one answer each.
            cluster_of: the cluster of each pair, by its id.
        """
        return [
            self._edited(pair, cluster_of[pair.id], attack, order, edit)
            for pair, attack, edit in drawn
            for order in ORDERS
        ]

    def _edited(self, pair: Pair, cluster: str, attack: Attack, order: str, edit: Edit) -> Sample:
        sample = self.one(edited(pair, order, attack, self.form, edit), order, cluster)
        name = f"{pair.id}~{attack.family}.{attack.name}.{edit}#{order}"
        return replace(sample, id=name, metadata={**sample.metadata, "attack": [*attack], "edit": edit})

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
