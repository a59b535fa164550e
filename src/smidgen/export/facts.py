"""The facts that exports return about what they wrote, for `--json`, reports and model cards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class DriftFacts:
    """How far the next-token distributions of an export are from those of the model it was made from.

    Attributes:
        asked: what the prompts are, as it follows their number: `prompts of smidgen's own`.
        mean_kl: KL divergence in nats, averaged over the positions.
        max_logit_difference: of any token at any position; None if it was not measured.
        same_top: share of the positions at which the most probable token is the same; None if not measured.
        prompts: number of prompts.
        positions: number of positions that were compared; None if not counted.
    """

    asked: str
    mean_kl: float
    max_logit_difference: float | None = None
    same_top: float | None = None
    prompts: int
    positions: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that were measured."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Export(Protocol):
    """What every export returns about what it wrote."""

    @property
    def format(self) -> str:
        """`mlx`, `fused`, `peft`, `mlx-adapter` or `gguf`."""
        ...

    @property
    def bytes(self) -> int:
        """Size of the weight files."""
        ...

    @property
    def drift(self) -> DriftFacts | None:
        """From the model that it was made from; None if it was not measured."""
        ...

    @property
    def adapter_effect(self) -> DriftFacts | None:
        """The drift between the base and the base with its adapter; None if it was not measured."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What a user should know before relying on it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the facts for `--json`."""
        ...
