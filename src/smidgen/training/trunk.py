"""The frozen lower blocks of a model, whose output for a row is the same in every epoch.

With adapters in the last N blocks only, the hidden states below them are computed once per row and then read
from a memory-mapped file. A row is identified by its tokens. States are rounded to the file's dtype before
their first use, so every epoch sees the same ones.
"""

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from smidgen.backend import mx, nn
from smidgen.errors import WorkError
from smidgen.models.graph import body, head_weight, named_arrays
from smidgen.training.batches import TrainBatch, TrainRow

StateDtype = Literal["float16", "float32"]


def frozen_blocks(model: nn.Module) -> int:
    """Return the number of lowest blocks of which nothing is trained; 0 if the embedding is trained."""
    inner = body(model)
    if inner.embed_tokens.trainable_parameters():
        return 0
    trained = [bool(named_arrays(block.trainable_parameters())) for block in inner.layers]
    return trained.index(True) if True in trained else 0


class StateCache:
    """Hidden states of a fixed set of rows in a memory-mapped file, filled in any order.

    Every row has a checksum: a row that was not completely written is computed again.

    Args:
        folder: where the files are; a cache of the same rows and of the same `source` is continued.
        rows: the rows whose states can be stored; others are never found.
        width: numbers per token.
        dtype: dtype of the stored numbers.
        source: what the states depend on besides the rows; a cache of another source is replaced.
    """

    def __init__(
        self, folder: Path, rows: Iterable[TrainRow], width: int, dtype: StateDtype, source: str
    ) -> None:
        self._places: dict[bytes, tuple[int, int, int]] = {}
        tokens = 0
        for row in rows:
            key, size = _row_key(row), len(row.token_ids) - 1
            if key not in self._places:
                self._places[key] = len(self._places), tokens, size
                tokens += size
        identity = hashlib.sha256(b"".join([source.encode(), dtype.encode(), *self._places])).hexdigest()
        told = folder / "identity"
        if not told.is_file() or told.read_text() != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            told.write_text(identity)
        self.width = width
        self._states = _mapped(folder / "states", dtype, (tokens, width))
        self._checksums = _mapped(folder / "checksums", "uint32", (len(self._places),))

    def read(self, key: bytes, out: np.ndarray) -> bool:
        """Write the states of a row to `out`, (tokens, D) float32, and return whether they are stored."""
        if (place := self._places.get(key)) is None:
            return False
        row, start, size = place
        states = self._states[start : start + size]
        if self._checksums[row] != _checksum(states):
            return False
        out[...] = states
        return True

    def write(self, key: bytes, states: np.ndarray) -> None:
        """Store the states of a row, (tokens, D) float32, and round them in place to what is stored.

        Raises:
            WorkError: a number is too large for the dtype.
        """
        if (place := self._places.get(key)) is None:
            return
        row, start, size = place
        stored = self._states[start : start + size]
        with np.errstate(over="ignore"):
            stored[...] = states
        if not np.isfinite(stored).all():
            raise WorkError(
                f"a hidden state of {np.abs(states).max():.3g} does not fit {self._states.dtype}; "
                'set train.trunk_cache = "float32" or "off"'
            )
        self._checksums[row] = _checksum(stored)
        states[...] = stored


class Trunk:
    """The lowest blocks of a model, none of them trained, with a cache of their output if one is given.

    Attributes:
        depth: number of blocks.
    """

    def __init__(self, depth: int, run: Callable[[TrainBatch], mx.array]) -> None:
        self.depth = depth
        self._run = run
        self._cache: StateCache | None = None

    def keep(self, cache: StateCache) -> None:
        """Store states from now on, and read those that are stored."""
        self._cache = cache

    def states(self, batch: TrainBatch) -> mx.array:
        """Return the hidden states (B, L, D) of a batch after the last block of the trunk."""
        if self._cache is None or batch.spans is None:
            return mx.stop_gradient(self._run(batch))
        places = [slice(start, start + size) for start, size in batch.spans.tolist()]
        return self._stored(batch, [(_span_key(batch, place), place) for place in places], self._cache)

    def _stored(self, batch: TrainBatch, spans: Sequence[tuple[bytes, slice]], cache: StateCache) -> mx.array:
        """Return the stored states of rows, given by key and place; if any are missing, run the batch."""
        rows, length = batch.inputs.shape
        found = np.zeros((rows * length, cache.width), np.float32)
        missing = [(key, place) for key, place in spans if not cache.read(key, found[place])]
        if missing:
            fresh = self._run(batch)
            mx.eval(fresh)
            computed = np.array(fresh.astype(mx.float32)).reshape(rows * length, -1)
            for key, place in missing:
                cache.write(key, computed[place])
                found[place] = computed[place]
        return mx.array(found.reshape(rows, length, -1))


@dataclass(frozen=True)
class TrunkStates:
    """A cache of a trunk's states that is not open yet.

    Attributes:
        trunk: the trunk.
        model: the model that it is of.
        rows: the rows whose states are stored.
        dtype: dtype of the stored numbers.
    """

    trunk: Trunk
    model: nn.Module
    rows: Sequence[TrainRow]
    dtype: StateDtype

    @property
    def num_bytes(self) -> int:
        """Size on disk: the tokens of all different rows."""
        return stored_tokens(self.rows) * self._width * np.dtype(self.dtype).itemsize

    def open(self, folder: Path) -> None:
        """Let the trunk store its states in a folder, and read those that are there.

        Raises:
            WorkError: there is not enough room on the disk.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if not folder.exists() and free < self.num_bytes:
            raise WorkError(
                f"the states of the frozen blocks need {self.num_bytes / 1e9:.1f} GB on disk, and "
                f"{free / 1e9:.1f} GB are free in {folder.parent}; make room, or lower train.trunk_cache_gb"
            )
        cache = StateCache(folder, self.rows, self._width, self.dtype, self._weights())
        self.trunk.keep(cache)

    @property
    def _width(self) -> int:
        return head_weight(self.model).shape[1]

    def _weights(self) -> str:
        """Return a checksum of the weights that the states depend on."""
        inner = body(self.model)
        parts = [inner.embed_tokens, *inner.layers[: self.trunk.depth]]
        arrays = [array for part in parts for array in named_arrays(part.parameters()).values()]
        total = 0
        for array in arrays:
            total = zlib.crc32(np.array(array.view(mx.uint8), order="C").data, total)
        return f"{total:08x}"


def stored_tokens(rows: Iterable[TrainRow]) -> int:
    """Return the tokens whose states a cache of these rows holds: all but the last of each different row."""
    return sum({_row_key(row): len(row.token_ids) - 1 for row in rows}.values())


def _row_key(row: TrainRow) -> bytes:
    return _key(row.token_ids[:-1], None if row.segment_ids is None else row.segment_ids[:-1])


def _span_key(batch: TrainBatch, place: slice) -> bytes:
    segments = None if batch.segment_ids is None else batch.segment_ids.reshape(-1)[place]
    return _key(batch.inputs.reshape(-1)[place], segments)


def _key(token_ids: np.ndarray, segment_ids: np.ndarray | None) -> bytes:
    """Return a hash of a row's inputs, and of where its texts begin if there are several."""
    found = hashlib.blake2b(np.ascontiguousarray(token_ids, np.int32).tobytes(), digest_size=16)
    if segment_ids is not None and (begins := np.flatnonzero(np.diff(segment_ids))).size:
        found.update(b"texts" + begins.astype(np.int32).tobytes())
    return found.digest()


def _checksum(states: np.ndarray) -> int:
    """Return a checksum of stored states that is never 0, which marks a row that is not stored."""
    return zlib.crc32(states.data) or 1


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
