"""Two writers killed at random moments, or without space: every promise is kept, nothing is applied twice."""

from pathlib import Path

import pytest
from tests.tools.store_faults import fill_disk, run_writers


def test_killed_writers_lose_nothing_and_apply_nothing_twice(tmp_path: Path):
    counted = run_writers(tmp_path / "memory.db", inputs=60, kills=3)
    assert counted["decided"] == 60 and counted["promises"] >= 120 - counted["killed"] > 100


def test_a_writer_goes_on_when_there_is_space_again(tmp_path: Path):
    counted = fill_disk(tmp_path / "memory.db", tmp_path / "logs", inputs=60, disk=False)
    assert counted["decided"] == 60


@pytest.mark.long
def test_killed_fifty_times(tmp_path: Path):
    counted = run_writers(tmp_path / "memory.db", inputs=2_000, kills=50)
    assert counted["killed"] >= 25
