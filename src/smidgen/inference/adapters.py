"""The forward passes of one model, with its own weights and with low-rank adapters, and their decoders."""

from collections import OrderedDict
from pathlib import Path

from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import ForwardPass, forward_of
from smidgen.inference.inbox import MOST_ADAPTERS
from smidgen.models.load import LoadedModel
from smidgen.models.lora import with_adapter


class Decoders:
    """Lends decoders, each with the prefix that it held when it came back.

    An adapter's folder is read once, until it was not used for long or `refresh` is called. The base weights
    are shared between adapters on a GPU; on a CPU, where they are merged, each has a copy of its own.

    Attributes:
        base: the forward pass of the model as it was loaded.
    """

    def __init__(self, loaded: LoadedModel, *, kv_bits: int | None = None):
        """Prepare for `loaded`; `kv_bits` as in `forward_of`.

        Raises:
            ConfigError: the model's keys and values cannot be held so.
        """
        self._loaded = loaded
        self._kv_bits = kv_bits
        self.base = forward_of(loaded.model, kv_bits=kv_bits)
        self._adapted: OrderedDict[str, ForwardPass] = OrderedDict()
        self._idle: dict[str | None, tuple[ForwardPass, Decoder]] = {}

    def borrow(self, adapter: str | None = None) -> Decoder:
        """A decoder without rows: the one that came back last, unless another caller has it.

        Raises:
            ModelError: the folder holds no adapter of this model.
        """
        forward = self.base if adapter is None else self._with(adapter)
        owner, decoder = self._idle.pop(adapter, (None, None))
        return decoder if decoder is not None and owner is forward else Decoder(forward)

    def give_back(self, adapter: str | None, decoder: Decoder) -> None:
        """Take a decoder back, whose rows have left."""
        forward = self.base if adapter is None else self._adapted.get(adapter)
        if forward is not None and decoder.runs(forward):
            self._idle[adapter] = forward, decoder

    def refresh(self) -> None:
        """Read the weights anew and forget all that was computed with the old ones."""
        self._idle.clear()
        self._adapted.clear()
        self.base = forward_of(self._loaded.model, kv_bits=self._kv_bits)

    def _with(self, adapter: str) -> ForwardPass:
        if adapter not in self._adapted:
            model = with_adapter(self._loaded.model, Path(adapter), self._loaded.name)
            self._adapted[adapter] = forward_of(model, kv_bits=self._kv_bits)
            if len(self._adapted) > MOST_ADAPTERS:
                oldest, _ = self._adapted.popitem(last=False)
                self._idle.pop(oldest, None)
        self._adapted.move_to_end(adapter)
        return self._adapted[adapter]
