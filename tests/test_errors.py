import inspect

import pytest

from smidgen import errors
from smidgen.errors import ParseError, SmidgenError, UserError, WorkError, did_you_mean

TREE = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("error", TREE)
def test_every_error_is_documented_drawn_and_of_the_tree(error: type[Exception]):
    assert issubclass(error, SmidgenError)
    assert error.__doc__
    assert error.__name__ in (errors.__doc__ or "")


def test_what_a_user_mends_is_apart_from_what_failed():
    assert not issubclass(WorkError, UserError)
    assert not issubclass(ParseError, UserError)


def test_a_near_name_is_proposed():
    assert did_you_mean("lerning_rate", ["batch_size", "learning_rate"]) == " Did you mean 'learning_rate'?"


def test_a_far_name_is_not():
    assert did_you_mean("zzz", ["batch_size", "learning_rate"]) == ""
    assert did_you_mean("zzz", []) == ""
