"""The artefacts of a run are evaluated as what they are, however large the model is."""

import json
from pathlib import Path

import pytest

from smidgen import config
from smidgen.files import read_json
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import MessageEvent, result_of
from smidgen.pipeline.exporting import artefacts_of, export_entry, exporting_stages, gguf_drift
from smidgen.runs import Run


def context_of(folder: Path, **tables: object) -> RunContext:
    return RunContext(config.Recipe.model_validate({"task": "judge", **tables}), Run(folder))


def test_an_artefact_is_opened_by_the_engine_that_reads_its_format(tmp_path: Path):
    context = context_of(
        tmp_path,
        name="large",
        model={"base": "owner/large"},
        train={"method": "sft", "lora": {}},
        quantize={"bits": 4},
        export={"formats": ("peft", "fused", "gguf")},
    )
    opened = {
        artefact.name: artefact.opened(context, tmp_path / artefact.folder).engine
        for artefact in artefacts_of(context.recipe)
    }
    assert opened == {"mlx-4bit": "mlx", "peft": "mlx", "fused": "mlx", "gguf-q8_0": "llama"}
    names = [stage.name for stage in exporting_stages(context.recipe, context.tasks)]
    assert names == ["export-peft", "peft", "export-fused", "fused", "export-gguf-q8_0", "gguf-q8_0"]


def test_the_drift_of_an_artefact_comes_into_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context = context_of(tmp_path, name="small", export={"formats": ("fused",)})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/validation.jsonl").write_text(json.dumps({"prompt": "Which is better?"}) + "\n")
    monkeypatch.setattr(RunContext, "trained", ("smidgen:nano", None))
    making, _ = exporting_stages(context.recipe, context.tasks)
    assert [event for event in making.work(context) if isinstance(event, MessageEvent)] == []
    assert read_json(tmp_path / "exports/fused.json")["drift"]["same_top"] == 1.0
    empty = {"metrics": {}, "speed": {}, "difference": None, "p_value": None}
    monkeypatch.setattr("smidgen.pipeline.exporting.evaluation_of", lambda *_: empty)
    monkeypatch.setattr("smidgen.pipeline.exporting.comparison", lambda *_: empty)
    (artefact,) = artefacts_of(context.recipe)
    drift = export_entry(context, artefact)["exports"]["fused"]["drift"]
    assert (drift["asked"], drift["prompts"]) == ("prompts that the run validated on", 1)
    assert drift["mean_kl"] < 1e-6


def test_a_file_that_drifts_far_is_warned_of():
    verified = {"kl_from_source": 0.5, "prompts": 3}
    (warning,) = gguf_drift(verified, "Q4_0")["warnings"]
    assert warning.startswith(
        "Q4_0 changes the next-token distributions by 0.5 nats on average, and above 0.1"
    )
    assert gguf_drift(verified | {"kl_from_source": 0.01}, "Q8_0")["warnings"] == []
    assert gguf_drift(None, "Q8_0") == {}


def test_work_without_an_audience_gives_its_result():
    def work():
        yield MessageEvent("a", "b")
        return 3

    assert result_of(work()) == 3
