"""The artefacts of a run are evaluated as what they are, however large the model is."""

import json
from pathlib import Path

import pytest

from smidgen import config
from smidgen.export.gguf.gguf_facts import Verification
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
        artefact.name: artefact.engine(context, tmp_path / artefact.folder).engine
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


def verification(kl_from_source: float) -> Verification:
    return Verification(
        path="model.gguf", tensors=1, numbers=1, largest_error=0.0, rms_error=0.0, tokens=1, end_tokens=[0],
        prompts=3, logit_error=0.0, tolerance=0.1, kl_from_source=kl_from_source, seconds=1.0,
    )  # fmt: skip


def test_a_file_that_drifts_far_is_warned_of():
    measured = gguf_drift(verification(0.5), "Q4_0")
    (warning,) = measured.warnings or ()
    assert warning.startswith(
        "Q4_0 changes the next-token distributions by 0.5 nats on average; `smidgen export fused` refuses a "
        "model above 0.1"
    )
    drift = {"asked": "texts of smidgen's own", "mean_kl": 0.5, "prompts": 3}
    assert measured.to_json() == {"drift": drift, "warnings": [warning]}
    assert gguf_drift(verification(0.01), "Q8_0").warnings == []
    assert gguf_drift(None, "Q8_0").to_json() == {}


def test_work_without_an_audience_gives_its_result():
    def work():
        yield MessageEvent("a", "b")
        return 3

    assert result_of(work()) == 3
