"""Keys from a file and the environment, and how often a client may ask."""

from pathlib import Path

import pytest

from smidgen.errors import ConfigError, DataError
from smidgen.serving import rates
from smidgen.serving.keys import Keys, read_keys
from smidgen.serving.rates import Buckets

KEYS = ["0123456789abcdef", "fedcba9876543210"]


def test_keys_of_a_file_and_of_the_environment(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n\n  {KEYS[0]}\n")
    keys = read_keys(file, {"SMIDGEN_API_KEYS": f" {KEYS[1]}, "})
    clients = [keys.client_of(key.encode()) for key in KEYS]
    assert None not in clients and len(set(clients)) == 2
    assert not any(key[:6] in str(client) for key, client in zip(KEYS, clients, strict=True))
    for wrong in (b"", KEYS[0][:-1].encode(), KEYS[0].encode() + b"0", b"\xff" * 16, b"# of the team"):
        assert keys.client_of(wrong) is None
    assert keys and not read_keys(None, {}) and not Keys()


def test_keys_that_are_unfit(tmp_path: Path):
    with pytest.raises(ConfigError, match="API key 2 has 5 characters; expected 16 or more"):
        Keys([KEYS[0], "short"])
    with pytest.raises(ConfigError, match="API key 1 has a character that a header cannot carry"):
        Keys(["0123456789 abcdef"])
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ConfigError, match="has no API key; expected one per line"):
        read_keys(tmp_path / "keys", {})
    with pytest.raises(DataError, match="there is no file of API keys"):
        read_keys(tmp_path / "missing", {})


def test_a_bucket_fills_evenly_and_holds_ten_seconds():
    now = 0.0
    buckets = Buckets(30, lambda: now)  # one token in two seconds
    assert [buckets.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 2]
    assert buckets.take("b") == 0
    now = 1.0
    assert buckets.take("a") == 1
    now = 2.0
    assert [buckets.take("a"), buckets.take("a")] == [0, 2]
    now = 1000.0
    assert [buckets.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 2]


def test_a_slow_rate_still_lets_one_request_through():
    buckets = Buckets(0.5, lambda: 0.0)
    assert [buckets.take("a"), buckets.take("a")] == [0, 120]


def test_clients_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "MOST_CLIENTS", 3)
    buckets = Buckets(6, lambda: 0.0)
    for client in ("a", "b", "a", "c", "d"):
        buckets.take(client)
    assert len(buckets._buckets) == 3
    assert buckets.take("a") > 0  # asked later than b, which was forgotten
