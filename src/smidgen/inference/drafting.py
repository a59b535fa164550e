"""The ways of drafting that an engine offers, and what each needs."""

from dataclasses import dataclass
from typing import Literal

from smidgen.inference.acceptance import Acceptance, Windows
from smidgen.inference.adapters import Decoders
from smidgen.inference.decoder import Decoder
from smidgen.inference.draft_model import ModelDrafter, check_vocabulary
from smidgen.inference.drafts import Drafter, JacobiDrafter, LookupDrafter
from smidgen.inference.forward import ForwardPass, forward_of
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
        model: that model.
        width: number of tokens drafted for each row of a pass; by their expected worth if None.
        pool_size: with `jacobi`, number of passes whose choices are looked up.
        costs, draft_costs: times of passes of the model, and of the smaller one; measured if None.
    """

    mode: Literal["jacobi", "lookup", "draft"]
    model: LoadedModel | None = None
    width: int | None = None
    pool_size: int = POOL_SIZE
    costs: PassCosts | None = None
    draft_costs: PassCosts | None = None


class Speculations:
    """Makes the speculation of each lane; those of the same weights share what they learn."""

    def __init__(self, drafting: Drafting, loaded: LoadedModel, decoders: Decoders):
        """Prepare for a model and its decoders.

        Raises:
            ConfigError: the draft model has another vocabulary.
        """
        assert (drafting.model is not None) == (drafting.mode == "draft")
        self._drafting = drafting
        self._loaded = loaded
        self._decoders = decoders
        self._learned: dict[str | None, tuple[Acceptance, Windows]] = {}
        self._draft: ForwardPass | None = None
        if drafting.model is not None:
            check_vocabulary(drafting.model, loaded)
            self._draft = forward_of(drafting.model.model)
        self._costs: PassCosts | None = None
        self._costs_of_both: tuple[PassCosts, PassCosts] | None = None
        if drafting.width is None:  # measured now, so that it is in no answer's time
            self._costs = drafting.costs or _times(loaded, decoders.base)
            if drafting.model is not None and self._draft is not None:
                own = drafting.draft_costs or _times(drafting.model, self._draft)
                self._costs_of_both = self._costs, own

    def open(self, adapter: str | None) -> Speculation:
        """Return the speculation of a new lane of an adapter."""
        forward = self._decoders.base
        window = self._drafting.width if self._drafting.mode == "jacobi" else 0
        acceptance, windows = self._learned.setdefault(adapter, (Acceptance(), Windows(window)))
        return Speculation(
            self._drafter(acceptance, windows),
            acceptance,
            windows,
            self._costs,
            end_tokens=self._loaded.tokenizer.eos_token_ids,
            xp=forward.xp,
            epsilon=forward.epsilon,
            width=self._drafting.width,
        )

    def _drafter(self, acceptance: Acceptance, windows: Windows) -> Drafter:
        drafting = self._drafting
        if drafting.mode == "jacobi":
            return JacobiDrafter(acceptance, windows, drafting.pool_size)
        if self._draft is None:
            return LookupDrafter()
        return ModelDrafter(
            Decoder(self._draft),
            acceptance,
            self._costs_of_both,
            vocab_size=self._loaded.tokenizer.vocab_size,
            width=drafting.width,
        )


def _times(loaded: LoadedModel, forward: ForwardPass) -> PassCosts:
    return pass_costs(forward, {"config": loaded.config, "forward": type(forward).__name__})
