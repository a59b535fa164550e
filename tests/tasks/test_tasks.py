import pytest

from smidgen.errors import ConfigError
from smidgen.tasks import TASKS, find_task


def test_every_task_is_found_by_its_name() -> None:
    settings = {"own": {"message": "{{ text }}", "gold": "label"}}
    assert {find_task(name, settings.get(name)).name for name in TASKS} == set(TASKS)


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(
        ConfigError, match=r"there is no task 'jugde'\. Did you mean 'judge'\? Known: judge, intent"
    ):
        find_task("jugde")
