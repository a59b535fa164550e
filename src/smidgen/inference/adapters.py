"""Forward passes and decoders of one model, for its own weights and for each low-rank adapter."""

from collections import OrderedDict
from functools import partial
from pathlib import Path

from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import ForwardPass, forward_of
from smidgen.inference.inbox import MOST_ADAPTERS
from smidgen.models.load import LoadedModel
from smidgen.models.lora import with_adapter


class Decoders:
    """A pool of decoders, which keep their prefix cache between uses.

    An adapter's folder is read once and kept until the least recently used one is evicted or `refresh` is
    called. On a GPU adapters share the base weights; on a CPU, where adapters are merged, each has its own
    copy.

    Attributes:
        base: forward pass of the model as it was loaded.
    """

    def __init__(self, loaded: LoadedModel, *, kv_bits: int | None = None, in_numpy: bool = True):
        """Prepare for `loaded`; `kv_bits` and `in_numpy` as in `forward_of`.

        Raises:
            ConfigError: the model's head width does not allow a quantised KV cache.
        """
        self._loaded = loaded
        self._forward_of = partial(forward_of, kv_bits=kv_bits, in_numpy=in_numpy)
        self.base = self._forward_of(loaded.model)
        self._adapted: OrderedDict[str, ForwardPass] = OrderedDict()
        self._idle: dict[str | None, tuple[ForwardPass, Decoder]] = {}

    def borrow(self, adapter: str | None = None) -> Decoder:
        """Return a decoder without rows: the last one given back, if it is free, else a new one.

        Raises:
            ModelError: the folder does not contain an adapter of this model.
        """
        forward = self.base if adapter is None else self._with(adapter)
        owner, decoder = self._idle.pop(adapter, (None, None))
        return decoder if decoder is not None and owner is forward else Decoder(forward)

    def give_back(self, adapter: str | None, decoder: Decoder) -> None:
        """Take back a decoder; it must not have rows."""
        forward = self.base if adapter is None else self._adapted.get(adapter)
        if forward is not None and decoder.runs(forward):
            self._idle[adapter] = forward, decoder

    def refresh(self) -> None:
        """Read the weights again and discard everything computed with the old ones."""
        self._idle.clear()
        self._adapted.clear()
        self.base = self._forward_of(self._loaded.model)

    def _with(self, adapter: str) -> ForwardPass:
        if adapter not in self._adapted:
            model = with_adapter(self._loaded.model, Path(adapter), self._loaded.name)
            self._adapted[adapter] = self._forward_of(model)
            if len(self._adapted) > MOST_ADAPTERS:
                oldest, _ = self._adapted.popitem(last=False)
                self._idle.pop(oldest, None)
        self._adapted.move_to_end(adapter)
        return self._adapted[adapter]
