import pytest

from smidgen.data.trajectories import Trajectory, mismatch, read_trajectories
from smidgen.errors import DataError
from smidgen.files import write_jsonl

ONE = Trajectory("a", [1, 2], [[[3, 9, 9], [3, 4, 8], [3, 4, 5]], [[6]]], True)


def test_shards_are_read_in_order(tmp_path):
    other = Trajectory("b", [1], [[[2]]], False)
    write_jsonl(tmp_path / "shard-00001.jsonl", [other.to_json()])
    write_jsonl(tmp_path / "shard-00000.jsonl", [ONE.to_json()])
    assert list(read_trajectories(tmp_path)) == [ONE, other]


def test_the_answer_is_what_the_states_came_to():
    assert ONE.answer == [3, 4, 5, 6]
    assert ONE.iterations == 3
    assert mismatch([3, 9, 5], [3, 4, 5]) == 1 and mismatch([3], [3]) == 1


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "a"}, "a line is no trajectory: 'prompt'; collect the trajectories again"),
        (ONE.to_json() | {"blocks": 3}, "a line is no trajectory"),
        (
            ONE.to_json() | {"blocks": []},
            "the trajectory 'a' has an empty block, or states of several lengths",
        ),
        (ONE.to_json() | {"blocks": [[[1, 2], [1]]]}, "'a' has an empty block, or states of several lengths"),
        (ONE.to_json() | {"blocks": [[[]]]}, "has an empty block"),
    ],
)
def test_what_is_no_trajectory_is_refused(tmp_path, row, fault):
    write_jsonl(tmp_path / "shard-00000.jsonl", [row])
    with pytest.raises(DataError, match=fault):
        list(read_trajectories(tmp_path))
