import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from smidgen.backend import mx
from smidgen.errors import ConfigError
from smidgen.export.card import FORMATS, card_text, write_card
from smidgen.export.peft_adapter import export_peft
from smidgen.files import sha256_file
from smidgen.models.adapter import Adapter, write_adapter


def metric(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": value and value - 0.05, "high": value and value + 0.05, "n": 480}


def report(**changes: Any) -> dict[str, Any]:
    """What `smidgen run` writes, as far as a card tells it."""
    return {
        "name": "my-judge",
        "description": "Judges pairs.",
        "task": "judge",
        "created": "2026-11-21T10:25:54+00:00",
        "command": "smidgen run /home/somebody/recipes/my-judge.toml",
        "machine": {"device": "AMD EPYC", "platform": "Linux"},
        "provenance": {
            "versions": {"smidgen": "0.1.0", "mlx": None},
            "seeds": {"train": 3},
            "data": {
                "train": {"path": "/home/somebody/pairs.jsonl", "sha256": "ab" * 32, "rows": 1000},
                "test": {"path": "world", "sha256": "cd" * 32, "rows": 240},
            },
            "base_model": {"name": "smidgen:nano", "sha256": "ef" * 32},
        },
        "model": {"base": "smidgen:nano", "parameters": 2_374_016, "method": "LoRA rank 16, alpha 32"},
        "data": {"train_rows": 1900},
        "training": {
            "steps": 400,
            "seconds": 217.6,
            "curve": [{"step": step, "loss": 2 / step} for step in range(1, 401)],
            "validation": [{"step": 250, "loss": 0.0625}],
        },
        "after": {"metrics": {"accuracy": metric(0.8833)}},
        "exports": {
            "fused": {
                "metrics": {"accuracy": metric(0.875), "kappa": metric(None)},
                "difference": {"value": -0.01, "low": -0.02, "high": 0.0, "n": 240},
            }
        },
        "recipe": 'name = "my-judge"\n',
        "limits": ["The figures hold for pairs like those it was evaluated on."],
    } | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights of some kind, and a config.json."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "config.json").write_text(json.dumps({"model_type": "qwen3"}), encoding="utf-8")
    return made


@pytest.fixture
def peft_dir(tmp_path: Path) -> Path:
    layer = "model.layers.0.self_attn.q_proj"
    weights = {f"{layer}.lora_a": mx.ones((8, 20)), f"{layer}.lora_b": mx.ones((20, 8))}
    write_adapter(tmp_path / "adapter", Adapter(weights, {layer: 2.0}, 0.0, None, tmp_path))
    export_peft(tmp_path / "adapter", "owner/base", tmp_path / "peft")
    return tmp_path / "peft"


def test_the_hub_reads_the_front_matter_and_the_figures_of_this_artefact(folder: Path):
    write_card(folder, report(), artefact="fused", format="fused")
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "text-generation",
    )
    assert data.base_model is None  # the bundled model has no place on the hub
    assert data.eval_results is not None
    (result,) = data.eval_results  # a metric without a value is no result
    assert (result.metric_type, result.metric_value, result.dataset_name) == (
        "accuracy",
        0.875,
        "world (held-out rows)",
    )
    assert result.metric_name == "accuracy, 95 % interval 0.825 to 0.925, n = 480"


def test_the_card_tells_what_was_measured_and_what_it_was_made_of(folder: Path):
    text = card_text(folder, report(), artefact="fused", format="fused")
    for part in (
        "# my-judge (fused)",
        "The base is licensed under apache-2.0 (according to README.md), and so is this artefact.",
        "This artefact itself was evaluated, as it ships, on held-out rows of world.",
        "| accuracy | 0.875 | 0.825 | 0.925 | 480 |",
        "in accuracy: \\-0.010 (-0.020 to +0.000).",
        f"| train | pairs.jsonl | 1,000 | {'ab' * 32} |",
        "| parameters | 2,374,016 |",
        "| 1 | 2.000 | – |",
        "| 250 | 0.008 | 0.062 |",
        "| 400 | 0.005 | – |",
        "| command | smidgen run my-judge.toml |",
        '```toml\nname = "my-judge"\n```',
        f"| model.safetensors | 7 | {sha256_file(folder / 'model.safetensors')} |",
        "- The figures hold for pairs like those it was evaluated on.",
    ):
        assert part in text
    assert "somebody" not in text and "0.883" not in text


def test_training_is_told_against_the_best_base(folder: Path):
    difference = {"value": 0.39, "low": 0.35, "high": 0.43, "n": 240}
    compared = {"after_vs_base_examples": {"metric": "accuracy", "difference": difference}}
    best = {"name": "base_examples", "description": "base model with worked examples", "ways": 3}
    text = card_text(
        folder, report(comparisons=compared, best_base=best), artefact="fused", format="fused"
    ).replace("\n", " ")
    bare = text.replace("\\", "")
    assert (
        "Training changed accuracy by +0.390 (+0.350 to +0.430) before export, on the same rows, compared "
        "with the base model with worked examples, the best of 3 ways to ask the base." in bare
    )
    alone = card_text(
        folder, report(comparisons=compared, best_base=best | {"ways": 1}), artefact="fused", format="fused"
    )
    assert "the best of" not in alone
    assert "Training changed" not in card_text(folder, report(), artefact="fused", format="fused")


def test_the_accuracy_of_a_judge_where_it_is_confident_is_told(folder: Path):
    points = [
        {"coverage": share, "threshold": 1 - share, "accuracy": metric(value)}
        for share, value in ((0.1, 1.0), (0.75, 0.93), (1.0, 0.85))
    ]
    after = {"metrics": {"accuracy": metric(0.8833)}, "abstention": {"points": points}}
    text = card_text(folder, report(after=after), artefact="fused", format="fused")
    assert "the accuracy of the trained judge is 0.850; on the 75.0% of pairs" in " ".join(text.split())
    assert "of which it is most confident, it is 0.930 (" in " ".join(text.split())
    after["abstention"] = {"points": points[2:]}
    assert "most confident" not in card_text(folder, report(after=after), artefact="fused", format="fused")


def test_what_was_not_evaluated_is_not_vouched_for(folder: Path):
    text = card_text(folder, report(), artefact="mlx-3bit", format="mlx")
    assert "**This artefact was not evaluated.**" in text
    assert (
        "Before export, the model scored:" in text and "| accuracy | 0.8833 | 0.833 | 0.933 | 480 |" in text
    )
    assert "model-index" not in text


def test_a_card_without_a_run_says_what_is_known(folder: Path):
    text = card_text(folder, {"model": {"base": "owner/unseen"}}, artefact="fused", format="fused")
    assert "# made (fused)" in text and "from owner/unseen" in text
    assert "The licence of the base is unknown" in text
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.base_model_relation) == (None, "owner/unseen", "finetune")


def test_a_licence_that_forbids_commerce_is_told(folder: Path, tmp_path: Path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llama4_text"}', encoding="utf-8")
    text = card_text(folder, {"model": {"base": str(base)}}, artefact="fused", format="fused")
    assert "**It is not licensed for commercial use.**" in text and str(tmp_path) not in text
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "FAIR Noncommercial Research License")


PROGRAMS = {
    "mlx": ["mlx-lm", "smidgen"],
    "fused": ["mlx-lm", "transformers", "vLLM", "smidgen"],
    "mlx-adapter": ["mlx-lm", "smidgen"],
    "gguf": ["llama.cpp", "Ollama", "smidgen"],
}


def programs(text: str) -> list[str]:
    return re.findall(r"^([\w.\- ]+):\n\n```", text.partition("## How to run it")[2], re.MULTILINE)[:4]


@pytest.mark.parametrize("format", PROGRAMS)
def test_only_programs_that_load_it_are_named(folder: Path, format: str):
    text = card_text(folder, report(recipe=None, task="intent"), artefact="x", format=format)
    assert programs(text) == PROGRAMS[format]


USAGE = {
    "command": "judge",
    "arguments": ("--prompt", "What is 23 + 48?", "--a", "71", "--b", "61"),
    "note": "Give the whole prompt elsewhere.",
}


@pytest.mark.parametrize("format", PROGRAMS)
def test_a_specialist_with_a_command_of_its_own_is_shown_in_it_first(folder: Path, format: str):
    text = card_text(folder, report(recipe=None, usage=USAGE), artefact="x", format=format)
    assert programs(text) == ["smidgen", *PROGRAMS[format][:-1]]
    assert "smidgen judge --model " in text and " --prompt 'What is 23 + 48?' --a 71 --b 61\n" in text
    assert "smidgen generate" not in text and "Give the whole prompt elsewhere." in text


def test_drift_stands_in_the_card_as_far_as_it_was_measured(folder: Path):
    drift = {"mean_kl": 2.3, "prompts": 12, "asked": "prompts of mine"}
    changed = report(exports={"fused": {"drift": drift}})
    text = card_text(folder, changed, artefact="fused", format="fused")
    assert "was not evaluated" in text and "on 12 prompts of mine: 2.3 nats on average.\n" in text
    drift |= {"same_top": 0.361, "positions": 379}
    text = card_text(folder, changed, artefact="fused", format="fused")
    assert "2.3 nats on average, the same first choice at 36.1% of 379 positions.\n" in text
    assert "Drift" not in card_text(folder, report(), artefact="fused", format="fused")


def test_resistance_stands_in_the_card_with_its_control(folder: Path):
    own = {"flips": metric(0.25), "benign_flips": metric(0.125)}
    found = {"trained_on": ["padding"], "groups": {"all": own, "held_out": own}}
    found["families"] = {"padding": own, "system": own | {"flips": metric(None)}}
    changed = report(after={"metrics": {"accuracy": metric(0.9)}, "attacks": found})
    text = card_text(folder, changed, artefact="fused", format="fused")
    rates = "0.250 (0.200 to 0.300) | 0.125 (0.075 to 0.175) | 480 |"
    for label in ("all", "all held out", "padding (trained on)"):
        assert f"| {label} | {rates}" in text
    assert "| system (held out) | – (– to –) |" in text
    assert "manipulated" not in card_text(folder, report(), artefact="fused", format="fused")


def test_an_architecture_that_others_lack_is_not_promised_there(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama4_text"}), encoding="utf-8")
    changed = report(recipe=None, task="intent", model={"base": "owner/mobile"})
    assert programs(card_text(folder, changed, artefact="x", format="fused")) == ["transformers", "smidgen"]
    assert programs(card_text(folder, changed, artefact="x", format="mlx")) == ["smidgen"]


def test_an_adapter_names_its_base_and_what_vllm_needs(peft_dir: Path):
    text = card_text(peft_dir, {"model": {"base": "owner/base"}}, artefact="peft", format="peft")
    assert (
        "vllm serve owner/base --enable-lora --max-lora-rank 32 --lora-modules adapter=peft" in text
        and "this one has 20: start it with --max-lora-rank 32." in text
    )
    assert 'PeftModel.from_pretrained(model, "peft")' in text
    assert "smidgen generate --model owner/base --adapter peft" in text


def run_it(folder: Path, format: str, base: str, place: str | None = None, *, thinking: bool = False) -> str:
    """What the card says of running an artefact."""
    model = {"base": base, "thinking": thinking}
    text = card_text(folder, {"model": model}, artefact=format, format=format, place=place)
    return text.partition("## How to run it")[2].partition("## How it was made")[0]


@pytest.mark.parametrize("format", ["peft", "mlx-adapter"])
def test_a_base_that_comes_with_smidgen_is_to_be_named_by_its_folder_elsewhere(peft_dir: Path, format: str):
    text = run_it(peft_dir, format, "smidgen:nano")
    elsewhere, _, ours = text.rpartition("smidgen:\n")
    notes = elsewhere.count("use the folder that smidgen inspect smidgen:nano shows instead")
    assert notes == {"peft": 2, "mlx-adapter": 1}[format]
    assert "smidgen generate --model smidgen:nano --adapter peft" in ours


SWITCHES = {
    "mlx": ["--chat-template-config '{\"enable_thinking\": VALUE}'"],
    "mlx-adapter": ["--chat-template-config '{\"enable_thinking\": VALUE}'"],
    "peft": [
        "return_dict=True, enable_thinking=VALUE",
        "--default-chat-template-kwargs '{\"enable_thinking\": VALUE}'",
    ],
    "gguf": [
        f"{program} -m model.gguf --jinja --chat-template-kwargs '{{\"enable_thinking\": VALUE}}'"
        for program in ("llama-cli", "llama-server")
    ],
}
SWITCHES["fused"] = [*SWITCHES["mlx"], *SWITCHES["peft"]]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("format", SWITCHES)
def test_thinking_is_as_it_was_in_training(
    folder: Path, peft_dir: Path, tiny_model_dir: Path, format: str, thinking: bool
):
    made = peft_dir if format == "peft" else folder
    text = run_it(made, format, str(tiny_model_dir), thinking=thinking)
    assert f"switch for thinking. It is {'on' if thinking else 'off'} below, as in training and" in text
    for part in SWITCHES[format]:
        value = str(thinking) if "=True," in part else str(thinking).lower()
        assert part.replace("VALUE", value) in text
    assert text.count("enable_thinking") == len(SWITCHES[format])
    assert text.rstrip("`\n ").endswith("--thinking") == thinking
    untold = card_text(made, {"model": {"base": str(tiny_model_dir)}}, artefact="x", format=format)
    assert "It is off below.\n" in untold
    unknown = run_it(made, format, "owner/unseen", thinking=thinking)
    assert "thinking" not in unknown


def test_what_is_on_the_hub_is_named_so(folder: Path, peft_dir: Path):
    text = run_it(folder, "fused", "owner/base", "me/judge")
    for part in (
        "mlx_lm.generate --model me/judge ",
        'name = "me/judge"',
        "vllm serve me/judge",
        "smidgen generate --model me/judge ",
    ):
        assert part in text
    text = run_it(peft_dir, "mlx-adapter", "owner/base", "me/judge")
    fetched = "hf download me/judge --local-dir judge\n"
    assert f"{fetched}mlx_lm.generate --model owner/base --adapter-path judge " in text
    assert f"{fetched}smidgen generate --model owner/base --adapter judge " in text
    (folder / "model.safetensors").rename(folder / "judge.gguf")
    text = run_it(folder, "gguf", "owner/base", "me/judge")
    for command in ("llama-cli -m judge.gguf", "printf", "smidgen generate --model judge.gguf"):
        assert f"hf download me/judge --local-dir .\n{command}" in text


def test_a_gguf_file_is_named_as_it_stands(folder: Path):
    (folder / "model.safetensors").rename(folder / "my judge.gguf")
    text = card_text(folder, report(usage=USAGE), artefact="gguf-q8_0", format="gguf")
    assert "llama-server -m 'my judge.gguf'" in text and "smidgen judge --model 'my judge.gguf'" in text
    assert "printf 'FROM ./%s\\n' 'my judge.gguf' > Modelfile" in text
    (folder / "my judge.Modelfile").touch()
    text = card_text(folder, report(), artefact="gguf-q8_0", format="gguf")
    assert "ollama create specialist -f 'my judge.Modelfile'" in text


def test_what_stands_in_data_stays_text(folder: Path):
    evil = '"]: x\n---\n# own\n| a | `b` <script>alert(1)</script> [c](http://d.e) ```'
    usage = {"command": evil, "arguments": [evil], "note": evil}
    changed = report(name=evil, description=evil, limits=[evil], recipe=evil, task=evil, usage=usage)
    changed["model"]["method"] = evil
    changed["provenance"]["data"]["test"]["path"] = evil
    changed["exports"]["fused"]["metrics"] = {evil: metric(0.5)}
    text = card_text(folder, changed, artefact="fused", format="fused")
    card = ModelCard(text)
    assert card.data.eval_results is not None and card.data.eval_results[0].metric_type == evil
    tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
    kinds = {token.type for token in tokens}
    kinds |= {piece.type for token in tokens for piece in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "hr"}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Results", "How to run it", "How it was made", "Files"]


def test_an_unknown_format_is_refused(folder: Path):
    known = ", ".join(FORMATS)
    with pytest.raises(ConfigError, match=rf"there is no format 'ggfu'; expected one of {known}"):
        write_card(folder, report(), artefact="x", format="ggfu")
    assert not (folder / "README.md").exists()
