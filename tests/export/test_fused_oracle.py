"""A fused folder in transformers: the scores of the base with its adapter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.export.fused import export_fused
from smidgen.models.load import load

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize(("model", "atol"), [("tiny", 1e-3), ("smidgen:nano", 0.3)])
def test_transformers_loads_it(
    tiny_model_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path, model: str, atol: float
):
    """The tiny model is stored in float32; the bundled one in bfloat16, which rounds the sum."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    name = str(tiny_model_dir) if model == "tiny" else model
    adapter = make_adapter(name, LoraConfig(rank=8, alpha=16), size=0.05)
    export_fused(name, adapter, tmp_path / "out")
    tokens = np.random.default_rng(0).integers(0, 300, (2, 40))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    ids = mx.array(tokens, mx.int32)
    np.testing.assert_allclose(found, np.array(load(str(tmp_path / "out")).model(ids)), rtol=0, atol=1e-3)
    np.testing.assert_allclose(found, np.array(load(name, adapter=adapter).model(ids)), rtol=0, atol=atol)
    assert np.abs(found - np.array(load(name).model(ids))).max() > 1.0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the better answer")["input_ids"] == load(name).tokenizer.encode("the better answer")
