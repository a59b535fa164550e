"""Metrics for experiment trackers, which stand in here as what they are asked to do."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from smidgen.cli.app import exit_code

COMMAND = ["evaluate", "judge", "--limit", "2", "--max-tokens", "4"]


@contextmanager
def no_run(**settings: Any):
    yield SimpleNamespace(summary=settings["taken"])


def test_wandb_gets_facts_and_metrics(
    tiny_model_dir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    taken: dict[str, Any] = {}
    begun: list[dict[str, Any]] = []

    def init(**settings: Any):
        begun.append(settings)
        return no_run(taken=taken)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    assert exit_code([*COMMAND, "--model", str(tiny_model_dir), "--track", "wandb"]) == 0
    assert begun[0]["project"] == "smidgen" and begun[0]["config"]["variant"] == "rubric"
    assert taken["accuracy"] == 0.0 and taken["baseline_random"] == 0.5 and "unparsed_rate_high" in taken


def test_mlflow_gets_them_too(tiny_model_dir, monkeypatch: pytest.MonkeyPatch):
    said: dict[str, Any] = {}
    client = SimpleNamespace(
        set_experiment=lambda name: said.update(experiment=name),
        start_run=lambda: no_run(taken=None),
        log_params=lambda params: said.update(params=params),
        log_metrics=lambda metrics: said.update(metrics=metrics),
    )
    monkeypatch.setitem(sys.modules, "mlflow", client)
    assert exit_code([*COMMAND, "--model", str(tiny_model_dir), "--track", "mlflow"]) == 0
    assert said["experiment"] == "smidgen" and said["params"]["n"] == 4
    assert said["metrics"]["unparsed_rate"] == 1.0


def test_a_tracker_that_is_missing_or_fails(
    tiny_model_dir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert exit_code([*COMMAND, "--track", "wandb"]) == 2
    assert (
        "--track wandb needs the package wandb; install it with `pip install wandb`"
        in capsys.readouterr().err
    )

    def init(**_: Any):
        raise OSError("no key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    assert exit_code([*COMMAND, "--model", str(tiny_model_dir), "--track", "wandb"]) == 1
    assert "logging to wandb failed: OSError: no key" in capsys.readouterr().err
