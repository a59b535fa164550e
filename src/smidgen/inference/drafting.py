"""The ways of drafting that an engine offers, and what each needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from smidgen.errors import ConfigError
from smidgen.inference.acceptance import Acceptance
from smidgen.inference.drafts import JacobiDrafter, LookupDrafter
from smidgen.inference.forward import ForwardPass
from smidgen.inference.pass_costs import PassCosts, pass_costs
from smidgen.inference.speculation import Speculation
from smidgen.models.load import LoadedModel

POOL_SIZE = 4


@dataclass(frozen=True)
class Drafting:
    """How drafts are made.

    Attributes:
        mode: `jacobi`, the model's own choices after a wrong guess; `lookup`, the row's text; `draft`, a
            smaller model.
        width: number of tokens drafted for each row of a pass; by their expected worth if None.
        pool_size: with `jacobi`, number of passes whose choices are looked up.
        costs: times of passes; measured if None.
    """

    mode: Literal["jacobi", "lookup", "draft"]
    width: int | None = None
    pool_size: int = POOL_SIZE
    costs: PassCosts | None = None


class Speculations:
    """The speculation of an engine's own weights and of each adapter, which learn apart."""

    def __init__(self, drafting: Drafting, loaded: LoadedModel, forward: ForwardPass, context: int):
        """Prepare for a model whose passes have the costs of `forward`."""
        self._drafting = drafting
        self._loaded = loaded
        self._forward = forward
        self._context = context
        self._by_adapter: dict[str | None, Speculation] = {}
        self._costs = cache(self._measured)

    def of(self, adapter: str | None) -> Speculation:
        """Return the speculation of an adapter."""
        if adapter not in self._by_adapter:
            acceptance = Acceptance()
            drafting = self._drafting
            drafter = (
                JacobiDrafter(acceptance, drafting.pool_size) if drafting.mode == "jacobi" else LookupDrafter()
            )
            self._by_adapter[adapter] = Speculation(
                drafter,
                acceptance,
                self._costs,
                end_tokens=self._loaded.tokenizer.eos_token_ids,
                xp=self._forward.xp,
                epsilon=self._forward.epsilon,
                width=drafting.width,
            )
        return self._by_adapter[adapter]

    def _measured(self) -> PassCosts:
        if self._drafting.costs is not None:
            return self._drafting.costs
        return pass_costs(self._forward, self._loaded.config, self._context)
