"""Values that do not change while rows are trained on: computed once per row, then read from a mapped file.

The hidden states below the lowest adapter, a teacher's probabilities, a reference's log-probabilities: all
depend on the row and on frozen weights only. A row is identified by its content.
"""

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.backend import mx, nn
from smidgen.errors import WorkError
from smidgen.models.graph import named_arrays
from smidgen.training.batches import TrainRow


class RowCache:
    """Arrays of a fixed set of rows in a memory-mapped file, filled in any order.

    Every row has a checksum: a row that was not completely written is computed again.

    Args:
        folder: where the files are; a cache of the same rows and of the same `source` is continued.
        sizes: number of items of each row that can be stored, by its key; others are never found.
        dtype: dtype of an item, with the shape of its array if it is one.
        source: what the items depend on besides the rows; a cache of another source is replaced.
    """

    def __init__(self, folder: Path, sizes: Mapping[bytes, int], dtype: np.dtype, source: str) -> None:
        self._places: dict[bytes, tuple[int, slice]] = {}
        total = 0
        for number, (key, size) in enumerate(sizes.items()):
            self._places[key] = number, slice(total, total + size)
            total += size
        described = [source.encode(), str(dtype).encode(), *sizes]
        identity = hashlib.sha256(b"".join(described)).hexdigest()
        told = folder / "identity"
        if not told.is_file() or told.read_text() != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            told.write_text(identity)
        self.dtype = dtype
        self._items = _mapped(folder / "items", dtype.base, (total, *dtype.shape))
        self._checksums = _mapped(folder / "checksums", np.dtype(np.uint32), (len(sizes),))

    def read(self, key: bytes) -> np.ndarray | None:
        """Return the items of a row, (size, …); None if they are not stored."""
        if (place := self._places.get(key)) is None:
            return None
        number, items = place[0], self._items[place[1]]
        return items if self._checksums[number] == _checksum(items) else None

    def fill(
        self,
        out: np.ndarray,
        places: Sequence[tuple[bytes, slice]],
        compute: Callable[[], np.ndarray],
        stored: Callable[[np.ndarray], np.ndarray] = lambda items: items,
    ) -> None:
        """Write the items of some rows to `out`; if any are missing, compute all and store those.

        Args:
            out: (items, …), of the dtype that is computed.
            places: the key of each row, and its items in `out`.
            compute: returns an array like `out`.
            stored: rounds the items of a row to what is stored, so that the first use sees that too.
        """
        missing = []
        for key, place in places:
            if (items := self.read(key)) is None:
                missing.append((key, place))
            else:
                out[place] = items
        if missing:
            computed = compute()
            for key, place in missing:
                items = stored(computed[place])
                self.write(key, items)
                out[place] = items

    def write(self, key: bytes, items: np.ndarray) -> None:
        """Store the items of a row; rows that the cache is not for are ignored."""
        if (place := self._places.get(key)) is None:
            return
        self._items[place[1]] = items
        self._checksums[place[0]] = _checksum(self._items[place[1]])


@dataclass(frozen=True)
class PendingCache:
    """A cache that is not open yet.

    Attributes:
        name: name of its folder.
        what: what it stores, in words, for errors.
        advice: what to do if the disk is full.
        sizes: as in `RowCache`.
        dtype: as in `RowCache`.
        source: returns the `source` of a `RowCache`.
        keep: uses the cache from now on.
    """

    name: str
    what: str
    advice: str
    sizes: Mapping[bytes, int]
    dtype: np.dtype
    source: Callable[[], str]
    keep: Callable[[RowCache], None]

    @property
    def num_bytes(self) -> int:
        """Size on disk: the items of all different rows."""
        return sum(self.sizes.values()) * self.dtype.itemsize

    def open(self, folder: Path) -> None:
        """Let values be stored in a folder, and those read that are there.

        Raises:
            WorkError: there is not enough room on the disk.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if not folder.exists() and free < self.num_bytes:
            raise WorkError(
                f"{self.what} need {self.num_bytes / 1e9:.1f} GB on disk, and {free / 1e9:.1f} GB are free "
                f"in {folder.parent}; make room, or {self.advice}"
            )
        self.keep(RowCache(folder, self.sizes, self.dtype, self.source()))


def row_key(row: TrainRow, *, trained: bool = False) -> bytes:
    """Return a hash of a row's inputs, and of where its texts begin if there are several.

    With `trained`, also of its targets and of which of them are in the loss.
    """
    found = hashlib.blake2b(np.ascontiguousarray(row.token_ids[:-1], np.int32).tobytes(), digest_size=16)
    if row.segment_ids is not None and (begins := np.flatnonzero(np.diff(row.segment_ids[:-1]))).size:
        found.update(b"texts" + begins.astype(np.int32).tobytes())
    if trained:
        found.update(
            b"trained" + np.int32(row.token_ids[-1]).tobytes() + np.packbits(row.loss_mask).tobytes()
        )
    return found.digest()


def weights_checksum(parts: Iterable[nn.Module]) -> str:
    """Return a checksum of all weights of some modules."""
    total = 0
    for array in (array for part in parts for array in named_arrays(part.parameters()).values()):
        total = zlib.crc32(np.asarray(array.view(mx.uint8), order="C").data, total)  # read where they are
    return f"{total:08x}"


def _checksum(items: np.ndarray) -> int:
    """Return a checksum of stored items that is never 0, which marks a row that is not stored."""
    return zlib.crc32(np.ascontiguousarray(items).data) or 1


def _mapped(path: Path, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=tuple(shape))
