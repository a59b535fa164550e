"""A licence that rules out commercial use is told at every door, and goes with what is made of the model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

from smidgen.cli.app import exit_code
from smidgen.config import LoraConfig
from smidgen.models.load import load
from smidgen.models.lora import add_lora, save_adapter

pytestmark = pytest.mark.filterwarnings("always::smidgen.models.licence.LicenceNotice")
CONFIG = LoraConfig(rank=2, alpha=4, num_layers=1, target_modules=("q_proj",))


@pytest.fixture
def noncommercial(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model under a licence that only its model card names."""
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Base\n")
    return folder


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    model = load(str(tiny_model_dir)).model
    add_lora(model, CONFIG, seed=0)
    save_adapter(tmp_path / "adapter", model, CONFIG)
    return tmp_path / "adapter"


def generating(model: Path) -> list[str]:
    return ["generate", "--model", str(model), "--prompt", "x", "--max-tokens", "1"]


@pytest.mark.parametrize(
    "command",
    [
        lambda model, _: generating(model),
        lambda model, _: [*generating(model), "--engine", "llama"],
        lambda model, adapter: ["export", "peft", "--model", str(model), "--adapter", str(adapter)],
        lambda model, adapter: ["export", "mlx", "--model", str(model), "--adapter", str(adapter)],
        lambda model, adapter: ["export", "fused", "--model", str(model), "--adapter", str(adapter)],
    ],
    ids=["generate", "generate --engine llama", "export peft", "export mlx", "export fused"],
)
def test_every_door_tells_it(
    noncommercial: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[Path, Path], list[str]],
):
    arguments = command(noncommercial, adapter)
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "export" else []
    assert exit_code([*arguments, *out]) == 0
    assert capsys.readouterr().err.count("base is under the cc-by-nc-4.0 (according to README.md)") == 1


def test_a_copy_and_what_is_made_of_it_keep_it(
    noncommercial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    small, file = tmp_path / "small", tmp_path / "small.gguf"
    assert exit_code(["quantize", str(noncommercial), "--bits", "8", "--out", str(small)]) == 0
    capsys.readouterr()
    assert exit_code(generating(small)) == 0
    assert "small is under the cc-by-nc-4.0 (according to README.md)" in capsys.readouterr().err
    export = ["export", "gguf", "--model", str(small), "--out", str(file), "--no-verify", "--modelfile"]
    assert exit_code(export) == 0
    assert GGUFReader(file).fields["general.license"].contents() == "cc-by-nc-4.0"
    assert 'LICENSE "cc-by-nc-4.0"' in file.with_suffix(".Modelfile").read_text()
