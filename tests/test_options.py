"""The options that commands and functions take together."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.app import COMMANDS
from smidgen.cli.export import export
from smidgen.data.types import Sampling
from smidgen.errors import ConfigError
from smidgen.options import DecodingOptions, EngineOptions, SamplingOptions, WorkloadOptions


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"engine": "mlxx"}, r"there is no engine 'mlxx'; expected one of auto, .*\. Did you mean 'mlx'\?"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"kv_bits": 5}, "kv_bits is 5; expected 8 or 4"),
        ({"timeout": 0.0}, r"timeout is 0\.0; expected seconds above 0"),
        ({"timeout": float("inf")}, "timeout is inf; expected seconds above 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        EngineOptions(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens is 0; expected 1 or more"),
        ({"repeats": -1}, "repeats is -1; expected 1 or more"),
        ({"batch": ()}, r"batch is \(\); expected one or more batch sizes, each 1 or more"),
        ({"batch": (1, 0)}, r"batch is \(1, 0\); expected one or more batch sizes"),
        ({"max_tokens": 1}, "--max-tokens is 1; expected 2 or more"),
    ],
)
def test_workloads_that_mean_nothing_are_refused(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        WorkloadOptions(**settings)


def test_an_adapter_may_be_named_by_text():
    assert EngineOptions(adapter="a/b").adapter == Path("a/b")


def test_decoding_options_are_all_of_sampling_that_a_caller_sets():
    assert SamplingOptions().sampling() == DecodingOptions().sampling() == Sampling()
    names = [{field.name for field in fields(kind)} for kind in (Sampling, DecodingOptions)]
    assert names[0] - names[1] == {"stop_after"}
    drawn = DecodingOptions(max_tokens=3, seed=5, top_k=7, stop=("x",), stop_at_boxed=True).sampling()
    assert drawn == Sampling(max_tokens=3, seed=5, top_k=7, stop=("x",), stop_at_boxed=True)


SUBCOMMANDS = [export[name].default_command for name in export if not name.startswith("-")]


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS], ids=lambda command: command.__name__)
def test_no_command_lists_more_than_nine_parameters(command: Any):
    assert command.__code__.co_argcount + command.__code__.co_kwonlyargcount <= 9
