"""Metrics for experiment trackers, which stand in here as what they are asked to do."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from smidgen.cli.app import exit_code
from smidgen.tracking.tracker import step_values

COMMAND = ["evaluate", "judge", "--limit", "2", "--max-tokens", "4"]


def test_wandb_gets_facts_and_metrics(tiny_model_dir, monkeypatch: pytest.MonkeyPatch):
    taken: dict[str, Any] = {}
    begun: list[dict[str, Any]] = []
    done: list[bool] = []

    def init(**settings: Any):
        begun.append(settings)
        return SimpleNamespace(summary=taken, starting_step=0, finish=lambda: done.append(True))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    assert exit_code([*COMMAND, "--model", str(tiny_model_dir), "--track", "wandb"]) == 0
    assert begun[0]["project"] == "smidgen" and begun[0]["config"]["variant"] == "rubric"
    assert begun[0]["job_type"] == "evaluate" and done == [True]
    assert taken["accuracy"] == 0.0 and taken["baseline_random"] == 0.5 and "unparsed_rate_high" in taken


def test_a_step_has_names_in_groups():
    row = {
        "step": 7, "epoch": 0.5, "loss": 2.0, "trained_tokens": 30, "tokens": 60, "learning_rate": 1e-3,
        "grad_norm": 1.5, "seconds": 2.0, "validation_loss": None,
    }  # fmt: skip
    assert step_values(row) == {
        "train/epoch": 0.5, "train/loss": 2.0, "train/trained_tokens": 30, "train/tokens": 60,
        "train/learning_rate": 1e-3, "train/grad_norm": 1.5, "train/tokens_per_second": 30.0,
    }  # fmt: skip
    more = step_values(row | {"validation_loss": 1.0, "metrics": {"kl": 0.1, "validation_kl": 0.2}})
    assert {name: more[name] for name in more.keys() - step_values(row).keys()} == {
        "validation/loss": 1.0, "train/kl": 0.1, "validation/kl": 0.2,
    }  # fmt: skip


def test_a_tracker_that_is_missing_or_fails(
    tiny_model_dir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert exit_code([*COMMAND, "--track", "wandb"]) == 2
    assert (
        "--track is wandb, but the package wandb is not installed; install it with "
        "`pip install 'smidgen[wandb]'`" in capsys.readouterr().err
    )

    def init(**_: Any):
        raise OSError("no key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    assert exit_code([*COMMAND, "--model", str(tiny_model_dir), "--track", "wandb"]) == 1
    assert "logging to wandb failed: OSError: no key" in capsys.readouterr().err
