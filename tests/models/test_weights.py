from pathlib import Path

import pytest

from smidgen.errors import ModelError
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model
from smidgen.models.weights import count_weights


@pytest.mark.parametrize("bits", [None, 2, 3, 4, 6, 8])
def test_weights_are_counted_by_headers_packed_or_not(tiny_model_dir: Path, tmp_path: Path, bits: int | None):
    loaded = load(str(tiny_model_dir))
    total = sum(value.size for value in named_arrays(loaded.model.parameters()).values())
    folder, config = tiny_model_dir, loaded.config
    if bits:
        config = quantize(loaded.model, config, bits=bits, group_size=32)
        save_model(tmp_path / "q", loaded.model, config, tiny_model_dir)
        folder = tmp_path / "q"
    assert count_weights(folder, config) == total


def test_a_damaged_file_cannot_be_counted(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read .*; download it again"):
        count_weights(tmp_path, {})
