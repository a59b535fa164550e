import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from smidgen.backend import mx
from smidgen.cli.app import exit_code
from smidgen.config import LoraConfig
from smidgen.errors import ModelError
from smidgen.models.load import load
from smidgen.models.lora import add_lora, save_adapter
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model

CONFIG = LoraConfig(rank=4, alpha=8, target_modules=("q_proj",))


@pytest.fixture
def run_folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A finished run that trained an adapter of the tiny model and exported it once."""
    run = tmp_path / "run"
    model = load(str(tiny_model_dir)).model
    add_lora(model, CONFIG, seed=0)
    for block in model.layers:
        block.self_attn.q_proj.lora_b = mx.random.normal((4, 32), key=mx.random.key(0)) * 0.1
    save_adapter(run / "best", model, CONFIG)
    figure = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}
    report = {
        "name": "my-judge",
        "task": "judge",
        "model": {"base": str(tiny_model_dir)},
        "after": {"metrics": {"accuracy": figure | {"value": 0.8}}},
        "exports": {"peft": {"path": "exports/peft", "metrics": {"accuracy": figure}}},
    }
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (run / "data").mkdir()
    (run / "data/validation.jsonl").write_text('{"prompt": "the better", "target": "answer"}\n' * 3)
    return run


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = exit_code(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_adapter_goes_out_and_comes_back(
    run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    there, back = tmp_path / "peft", tmp_path / "mlx"
    code, out, _ = call(
        capsys, "peft", "--model", tiny_model_dir, "--adapter", run_folder / "best", "--out", there, "--json"
    )
    facts = json.loads(out)
    assert (code, facts["rank"], facts["alpha"], facts["parameters"]) == (0, 4, 8, 2 * 4 * 64)
    code, _, err = call(capsys, "mlx", "--model", tiny_model_dir, "--adapter", there, "--out", back)
    assert code == 0 and f"{back}: " in err and "of weights and a model card" in err
    ours, theirs = (mx.load(str(path / "adapters.safetensors")) for path in (run_folder / "best", back))
    assert set(ours) == set(theirs) and all(mx.array_equal(ours[name], theirs[name]) for name in ours)
    assert "# peft (peft)" in (there / "README.md").read_text(encoding="utf-8")
    code, _, err = call(capsys, "peft", "--model", tiny_model_dir, "--adapter", there, "--out", back)
    assert code == 2 and "It already exists" in err


def test_a_card_has_the_figures_of_the_very_file_that_was_evaluated(
    run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model", tiny_model_dir, "--adapter", run_folder / "best")
    assert call(capsys, "peft", *options, "--out", run_folder / "exports/peft")[0] == 0
    for name, evaluated in (("same", True), ("other", False)):
        if not evaluated:
            shutil.copy(run_folder / "best/adapters.safetensors", run_folder / "exports/peft")
        code, _, err = call(capsys, "peft", *options, "--run", run_folder, "--out", tmp_path / name)
        assert code == 0, err
        card = ModelCard.load(tmp_path / name / "README.md")
        assert ("**This artefact was not evaluated.**" in card.text) == (not evaluated)
        assert (card.data.eval_results is not None) == evaluated
        assert f"| accuracy | {0.75 if evaluated else 0.8} |" in card.text


def test_a_run_of_something_else_is_refused(
    run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model", tiny_model_dir, "--out", tmp_path / "out", "--run")
    code, _, err = call(capsys, "fused", *options, run_folder)
    assert code == 2 and f"{run_folder} did not train {tiny_model_dir}" in err
    code, _, err = call(capsys, "fused", *options, tmp_path / "none")
    assert code == 2 and "there is no file" in err
    assert not (tmp_path / "out").exists()


def test_a_fused_model_says_how_far_it_drifted(
    run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model", tiny_model_dir, "--adapter", run_folder / "best", "--run", run_folder)
    code, _, err = call(capsys, "fused", *options, "--out", tmp_path / "plain")
    assert code == 0 and "drift from the original model, on 3 prompts that the run valid" in err
    assert "effect of the adapter itself: " in err
    load(str(tmp_path / "plain"))
    small = ("--bits", 2, "--group-size", 32, "--max-drift", 1e-6, "--out", tmp_path / "small")
    code, _, err = call(capsys, "fused", *options, *small)
    assert code == 1 and "nothing was written: the fused model" in err and "--force" in err
    assert "It was measured on 3 prompts that the run validated on; --prompts FILE uses other prompts" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "run"]
    code, out, _ = call(capsys, "fused", *options, *small, "--force", "--json")
    facts = json.loads(out)
    assert (code, facts["format"], facts["bits"], facts["drift"]["prompts"]) == (0, "mlx", 2, 3)
    card = " ".join((tmp_path / "small/README.md").read_text(encoding="utf-8").split())
    assert "# my-judge (mlx-2bit)" in card
    share = f"{facts['drift']['same_top']:.1%} of {facts['drift']['positions']} positions"
    assert f"validated on: {facts['drift']['mean_kl']:.2g} nats on average" in card and share in card


def test_no_flag_has_a_negative(capsys: pytest.CaptureFixture[str]):
    for name in ("gguf", "peft", "mlx", "fused", "push"):
        _, out, _ = call(capsys, name, "--help")
        assert "--json" in out and "--no-json" not in out and "--no-no-verify" not in out


def test_prompts_of_ones_own(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, options = tmp_path / "prompts.jsonl", ("--model", tiny_model_dir, "--out", tmp_path / "out")
    file.write_text('{"prompt": "first"}\n{"prompt": "second"}\n', encoding="utf-8")
    code, out, _ = call(capsys, "fused", *options, "--prompts", file, "--json")
    drift = json.loads(out)["drift"]
    assert (code, drift["prompts"], drift["asked"]) == (0, 2, "prompts of prompts.jsonl")
    code, _, err = call(
        capsys, "fused", "--model", tiny_model_dir, "--out", tmp_path / "no", "--prompts", "x"
    )
    assert code == 2 and "there is no data file at x" in err


def test_what_becomes_of_quantised_weights_is_to_be_said(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    loaded = load(str(tiny_model_dir))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    save_model(tmp_path / "quantized", loaded.model, config, tiny_model_dir)

    def fused(model: Path, *more: object) -> tuple[int, str]:
        code, _, err = call(capsys, "fused", "--model", model, "--out", tmp_path / "out", *more)
        return code, err

    code, err = fused(tmp_path / "quantized")
    assert code == 2
    assert "is quantised: give --bits 4 to quantise the fused weights again, or --dequantize" in err
    code, err = fused(tmp_path / "quantized", "--dequantize", "--bits", "4")
    assert code == 2 and "--dequantize writes plain weights and --bits quantised ones; give only one" in err
    code, err = fused(tiny_model_dir, "--dequantize")
    assert code == 2 and "is not quantised, so --dequantize does nothing" in err
    assert not (tmp_path / "out").exists()
    assert fused(tmp_path / "quantized", "--dequantize")[0] == 0


@pytest.mark.parametrize("kind", ["peft", "mlx", "fused"])
def test_without_its_card_nothing_is_left(
    run_folder: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
):
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("there is no card")

    options = ("--model", tiny_model_dir, "--adapter", run_folder / "best", "--out", tmp_path / "out")
    with monkeypatch.context() as changed:
        changed.setattr("smidgen.pipeline.shipping.write_card", refuse)
        code, _, err = call(capsys, kind, *options)
    assert code == 2 and "there is no card" in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert call(capsys, kind, *options)[0] == 0


def test_an_adapter_that_does_not_fit_leaves_nothing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for kind in ("peft", "mlx", "fused"):
        options = ("--model", "smidgen:nano", "--adapter", run_folder / "best", "--out", tmp_path / "out")
        code, _, err = call(capsys, kind, *options)
        assert code == 2 and "does not fit the model" in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_folder_is_uploaded_with_its_card(
    hub: Any, run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = ("--adapter", run_folder / "best", "--out", tmp_path / "out", "--push", "me/judge")
    code, _, err = call(capsys, "peft", "--model", tiny_model_dir, *adapter)
    assert (
        code == 2 and f"'base_model_name_or_path' in adapter_config.json is {tiny_model_dir}, a local" in err
    )
    assert not hub.files and [path.name for path in tmp_path.iterdir()] == ["run"]
    code, out, _ = call(capsys, "peft", "--model", "owner/base", *adapter, "--private", "--json")
    assert code == 0 and json.loads(out)["url"] == f"{hub.url}/me/judge"
    card = hub.files["me/judge", "README.md"].decode()
    assert (
        "hf download me/judge --local-dir judge\nsmidgen generate --model owner/base --adapter judge " in card
    )
    assert 'PeftModel.from_pretrained(model, "me/judge")' in card and "adapter=me/judge" in card
    assert "# judge (peft)" in card
    assert hub.repos == {"me/judge": True}
    names = {name for _, name in hub.files}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    hub.refuse = 403
    code, _, err = call(capsys, "push", tmp_path / "out", "--to", "me/other")
    assert code == 2 and "refuses this token write access to me/other" in err
    hub.refuse = None
    code, _, err = call(capsys, "push", tmp_path / "out", "--to", "me/other")
    assert code == 0 and f"to {hub.url}/me/other" in err


def test_an_upload_that_cannot_be_is_refused_before_the_work(
    run_folder: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model", tiny_model_dir, "--adapter", run_folder / "best", "--out", tmp_path / "out")
    code, _, err = call(capsys, "peft", *options, "--push", "judge")
    assert code == 2 and "'judge' is not a hub repository" in err
    code, _, err = call(capsys, "peft", *options, "--private")
    assert code == 2 and "--private needs --push owner/name; give both" in err
    assert not (tmp_path / "out").exists()
