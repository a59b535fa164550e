"""What is computed once per row is read again, and only for the same rows, weights and dtype."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.errors import WorkError
from smidgen.training.batches import TrainRow
from smidgen.training.row_cache import PendingCache, RowCache, row_key, weights_checksum

ITEM = np.dtype([("ids", np.int32, (2,)), ("rest", np.float32)])


def items(count: int, value: int) -> np.ndarray:
    found = np.zeros(count, ITEM)
    found["ids"], found["rest"] = value, value / 2
    return found


def test_rows_are_kept_until_anything_that_they_depend_on_changes(tmp_path: Path):
    sizes = {b"one": 3, b"other": 1}
    cache = RowCache(tmp_path / "cache", sizes, ITEM, "weights")
    assert cache.read(b"one") is None
    cache.write(b"one", items(3, 7))
    cache.write(b"strange", items(1, 7))
    assert cache.read(b"strange") is None and cache.read(b"other") is None
    again = RowCache(tmp_path / "cache", sizes, ITEM, "weights").read(b"one")
    np.testing.assert_array_equal(again, items(3, 7))
    for changed in (
        (sizes, ITEM, "other weights"),
        ({b"one": 3}, ITEM, "weights"),
        (sizes, np.dtype(("f4", (4,))), "weights"),
    ):
        assert RowCache(tmp_path / "cache", *changed).read(b"one") is None
        RowCache(tmp_path / "cache", sizes, ITEM, "weights").write(b"one", items(3, 7))


def test_only_what_is_missing_is_computed_and_equal_rows_have_their_places(tmp_path: Path):
    cache = RowCache(tmp_path / "cache", {b"a": 1, b"b": 2}, np.dtype(np.float32), "")
    computed = []

    def compute() -> np.ndarray:
        computed.append(1)
        return np.arange(4, dtype=np.float32)

    places = [(b"a", slice(0, 1)), (b"b", slice(1, 3)), (b"a", slice(3, 4))]
    out = np.empty(4, np.float32)
    cache.fill(out, places, compute, lambda values: values + 10)
    assert out.tolist() == [10, 11, 12, 13]
    cache.fill(out, places, compute)
    assert out.tolist() == [13, 11, 12, 13] and len(computed) == 1


def test_a_key_is_of_inputs_and_if_wanted_of_what_is_trained(make_rows: Callable[..., list[TrainRow]]):
    (row,) = make_rows(1)
    other_target = TrainRow(np.append(row.token_ids[:-1], (row.token_ids[-1] + 1) % 97), row.loss_mask)
    other_mask = TrainRow(row.token_ids, np.roll(row.loss_mask, 1))
    assert len({row_key(one) for one in (row, other_target, other_mask)}) == 1
    assert len({row_key(one, trained=True) for one in (row, other_target, other_mask)}) == 3


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
    sizes, kept = {b"row": 250_000_000}, []
    pending = PendingCache("name", "these", "do that", sizes, ITEM, lambda: "", kept.append)
    assert pending.num_bytes == 3 * 10**9
    with pytest.raises(WorkError, match=r"these need 3\.0 GB on disk, and 1\.0 GB are free .*, or do that"):
        pending.open(tmp_path / "cache")
    assert not kept and not (tmp_path / "cache").exists()


def test_a_checksum_is_of_every_weight():
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    before = weights_checksum(layers)
    layers[1].bias = layers[1].bias + mx.array([0, 0, 1e-6])
    assert weights_checksum(layers) != before
