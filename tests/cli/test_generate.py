import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from smidgen.cli.app import exit_code
from smidgen.data.types import Completion, Timing
from smidgen.errors import DataError
from smidgen.export.gguf import write_gguf
from smidgen.inference import Stream
from smidgen.inference.mlx import MlxEngine


def generate(tiny_model_dir: Path, *arguments: str) -> int:
    return exit_code(["generate", "--model", str(tiny_model_dir), "--max-tokens", "6", *arguments])


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert generate(tiny_model_dir, "--prompt", "the better answer", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert generate(tiny_model_dir, "--prompt", "the better answer") == 0
    out, err = capsys.readouterr()
    assert out == facts["text"] + "\n"
    assert err.startswith(f"{facts['completion_tokens']} tokens, ")
    assert facts["finish_reason"] == "length" and err.endswith(", cut off at --max-tokens\n")


def test_the_prompt_may_come_from_stdin(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    texts = []
    for arguments, piped in ((["--prompt", "- the first"], ""), (["--prompt", "-"], "\ufeff- the first")):
        monkeypatch.setattr("sys.stdin", io.StringIO(piped))
        assert generate(tiny_model_dir, *arguments, "--json") == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]


def test_the_system_prompt_and_the_seed_matter(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    texts = {}
    for name, arguments in {
        "plain": [],
        "system": ["--system", "user system assistant"],
        "drawn": ["--temperature", "1", "--seed", "1"],
        "drawn again": ["--temperature", "1", "--seed", "1"],
        "drawn anew": ["--temperature", "1", "--seed", "2"],
    }.items():
        assert generate(tiny_model_dir, "--prompt", "answer", *arguments, "--json") == 0
        texts[name] = json.loads(capsys.readouterr().out)["text"]
    assert texts["drawn"] == texts.pop("drawn again")
    assert len(set(texts.values())) == len(texts)


def test_an_empty_prompt_is_refused(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(tiny_model_dir, "--prompt", " ") == 2
    assert "the prompt is empty; give it text" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["generate", "--model", "./nowhere", "--prompt", "a"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_said(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert generate(folder, "--prompt", "hi") == 2
    assert "computes logits that are NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "\udcff"], "the prompt is not UTF-8 text"),
        (
            ["--prompt", "hi", "--frequency-penalty", "nan"],
            "frequency_penalty is nan, expected a finite number",
        ),
        (["--prompt", "hi", "--temperature", "inf"], "temperature is inf"),
        (["--prompt", "hi", "--seed", "1.5"], "1.5 is not a whole number"),
    ],
)
def test_prompts_and_settings_that_mean_nothing(
    arguments: list[str], said: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert generate(tiny_model_dir, *arguments) == 2
    assert said in capsys.readouterr().err


def test_answers_keep_to_a_constraint(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "schema.json"
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
    file.write_text(schema, encoding="utf-8-sig")
    model = ["generate", "--model", str(tiny_model_dir), "--prompt", "which", "--json"]
    said = {}
    for arguments in (
        ["--schema", str(file)],
        ["--regex", "-[ab]{3}"],
        ["--choice", "the first", "--choice", "-1"],
    ):
        assert exit_code([*model, *arguments]) == 0
        said[arguments[0]] = json.loads(capsys.readouterr().out)
    assert {answer["finish_reason"] for answer in said.values()} == {"stop"}
    found = json.loads(said["--schema"]["text"])
    assert len(found) == 2 and all(isinstance(item, bool) for item in found)
    assert re.fullmatch("-[ab]{3}", said["--regex"]["text"])
    assert said["--choice"]["text"] in ("the first", "-1")


def test_a_choice_in_a_box_is_taken_out_of_it(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    model = ["generate", "--model", str(tiny_model_dir), "--prompt", "which", "--extract-boxed"]
    for constraint in (["--choice", r"\boxed{a}"], ["--regex", r"\\boxed\{a\}"]):
        assert exit_code([*model, *constraint]) == 0
        assert capsys.readouterr().out == "a\n"


def test_a_constrained_answer_that_is_cut_off_is_printed_and_is_a_failure(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert generate(tiny_model_dir, "--prompt", "which", "--regex", "x{1000}") == 1
    out, err = capsys.readouterr()
    assert re.fullmatch("x+\n", out)
    assert "error: the answer was cut off at --max-tokens and may not match its constraint" in err
    assert generate(tiny_model_dir, "--prompt", "which", "--regex", "x{1000}", "--json") == 1
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ["--regex", "a", "--choice", "b"],
            "--regex and --choice are given; expected at most one constraint",
        ),
        (["--regex", "(?=a)"], "the regular expression cannot be enforced: look-around"),
        (["--schema", "none.json"], "cannot read the schema none.json (No such file or directory)"),
        (["--choice", "a", "--stop", "b"], "stop strings (--stop, --stop-at-boxed"),
        (["--choice", "a", "--thinking"], "no room for thinking (--thinking); leave one of them out"),
        (["--choice", ""], "one of the choices is empty"),
        (["--regex", ""], "the regular expression is empty"),
        (
            ["--choice", r"\boxed{a}", "--choice", "b", "--extract-boxed"],
            "which --choice does not guarantee; remove one",
        ),
    ],
)
def test_constraints_that_cannot_be_kept_to_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
):
    assert exit_code(["generate", "--model", "./nowhere", "--prompt", "which", *arguments]) == 2
    out, err = capsys.readouterr()
    assert fault in err and not out


def test_without_the_template_the_prompt_stands_alone(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    sizes = []
    for arguments in ([], ["--no-chat-template"]):
        assert generate(tiny_model_dir, "--prompt", "the better", "--json", *arguments) == 0
        sizes.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert sizes[1] < sizes[0] - 4


@pytest.mark.parametrize(("option", "value"), [("--system", ["be brief"]), ("--thinking", [])])
def test_what_goes_through_the_template_needs_it(
    option: str, value: list[str], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert generate(tiny_model_dir, "--prompt", "a", "--no-chat-template", option, *value) == 2
    assert f"{option} requires the chat template; remove it or" in capsys.readouterr().err


THOUGHT = r"<think>\boxed{0}?</think> It is \boxed{\frac{1}{2}}, I say. "


@pytest.mark.parametrize(
    ("text", "arguments", "printed", "fault"),
    [
        (THOUGHT, [], THOUGHT, None),
        (THOUGHT, ["--final-only"], r"It is \boxed{\frac{1}{2}}, I say.", None),
        (THOUGHT, ["--extract-boxed"], r"\frac{1}{2}", None),
        (THOUGHT, ["--extract-boxed", "--final-only", "--thinking"], r"\frac{1}{2}", None),
        (r"<think>\boxed{0}</think> no", ["--extract-boxed"], "", r"no closed \boxed{…}"),
        (r"It is \boxed{1", ["--extract-boxed"], "", r"no closed \boxed{…}"),
        ("<think>on and on", ["--final-only"], "", "an unclosed thinking block"),
        ("on and on", ["--final-only", "--thinking"], "", "an unclosed thinking block"),
        ("plain", ["--final-only"], "plain", None),
    ],
)
def test_a_part_of_the_answer(
    text: str,
    arguments: list[str],
    printed: str,
    fault: str | None,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def pieces():
        yield text[:5]
        yield text[5:]
        return Completion(text, (1, 2), timing=Timing(0.1, 0.2, 3, 2))

    monkeypatch.setattr(MlxEngine, "stream", lambda *_: Stream(pieces()))
    assert generate(tiny_model_dir, "--prompt", "a", *arguments) == (1 if fault else 0)
    out, err = capsys.readouterr()
    assert out == printed + "\n"
    assert fault is None or f"error: the answer has {fault}; raise --max-tokens" in err
    generate(tiny_model_dir, "--prompt", "a", "--json", *arguments)
    facts = json.loads(capsys.readouterr().out)
    assert facts["text"] == text
    assert facts.get("answer", text) == (None if fault else printed)


def test_stopping_at_the_box_reaches_the_engine(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def stream(_, request):
        asked.append(request.sampling.stop_at_boxed)
        raise DataError("enough")

    monkeypatch.setattr(MlxEngine, "stream", stream)
    for arguments in ([], ["--stop-at-boxed"]):
        assert generate(tiny_model_dir, "--prompt", "a", *arguments) == 2
    assert asked == [False, True]


@pytest.mark.slow
def test_a_gguf_file_answers_as_its_folder_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    file = str(tmp_path / "nano.gguf")
    write_gguf("smidgen:nano", Path(file), dtype="F32")
    texts = []
    for model in (["smidgen:nano"], [file], [file, "--engine", "mlx"]):
        arguments = ["--prompt", "What is 2 + 3?", "--max-tokens", "8", "--json"]
        assert exit_code(["generate", "--model", *model, *arguments]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] == texts[2]
    assert exit_code(["generate", "--model", file, "--model-name", "x", "--prompt", "hi"]) == 2
    assert "a model name does not apply to the model" in capsys.readouterr().err
