import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx_lm
import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ConfigError, DataError, ModelError, WorkError
from smidgen.export.drift import MAX_PROMPTS, POSITIONS, compare, last_logits, token_rows
from smidgen.export.fused import export_fused
from smidgen.models.load import load, read_config
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model

PROMPTS = [[Message("user", "the better answer")], [Message("user", "user system assistant")]]


@pytest.fixture
def quantized_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model in 4 bits."""
    loaded = load(str(tiny_model_dir))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    save_model(tmp_path / "quantized", loaded.model, config, tiny_model_dir)
    return tmp_path / "quantized"


def test_one_folder_says_what_base_and_adapter_said(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path, tokens: mx.array
):
    facts = export_fused(str(tiny_model_dir), adapter, tmp_path / "out", prompts=PROMPTS)
    wanted = load(str(tiny_model_dir), adapter=adapter).model(tokens)
    np.testing.assert_allclose(load(str(tmp_path / "out")).model(tokens), wanted, rtol=1e-4, atol=1e-4)
    assert (facts.format, facts.bits, facts.dtype) == ("fused", None, "float32")
    assert facts.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert facts.drift.mean_kl < 1e-6 and facts.drift.same_top == 1.0
    assert facts.adapter_effect.mean_kl > 0.1


def test_weights_keep_the_dtype_of_the_file_where_the_config_says_none(tiny_model_dir: Path, tmp_path: Path):
    silent = tmp_path / "silent"
    shutil.copytree(tiny_model_dir, silent)
    config = {name: value for name, value in read_config(silent).items() if name != "dtype"}
    (silent / "config.json").write_text(json.dumps(config))
    facts = export_fused(str(silent), None, tmp_path / "out", prompts=PROMPTS)
    assert facts.dtype == "float32" and facts.drift.max_logit_difference < 1e-4


def test_mlx_lm_loads_it_plain_and_quantised(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path, tokens: mx.array
):
    for bits in (None, 8):
        out = tmp_path / f"out-{bits}"
        export_fused(str(tiny_model_dir), adapter, out, bits=bits, group_size=bits and 32, force=True)
        model, tokenizer = mlx_lm.load(str(out))
        np.testing.assert_allclose(model(tokens), load(str(out)).model(tokens), rtol=1e-3, atol=1e-3)
        assert tokenizer.encode("the better answer") == load(str(out)).tokenizer.encode("the better answer")


def test_an_update_on_a_quantised_base_is_added_to_what_its_weights_say(
    quantized_dir: Path, adapter: Path, tmp_path: Path, tokens: mx.array
):
    wanted = load(str(quantized_dir), adapter=adapter).model(tokens)
    facts = export_fused(str(quantized_dir), adapter, tmp_path / "out", prompts=PROMPTS)
    assert "quantization" not in read_config(tmp_path / "out")
    np.testing.assert_allclose(load(str(tmp_path / "out")).model(tokens), wanted, rtol=1e-3, atol=1e-3)
    assert facts.drift.mean_kl < 1e-5


def test_quantising_anew_is_told_and_measured(
    quantized_dir: Path, adapter: Path, tmp_path: Path, tokens: mx.array
):
    facts = export_fused(str(quantized_dir), adapter, tmp_path / "out", bits=8, group_size=32, max_drift=9.0)
    assert (facts.format, facts.bits, facts.group_size) == ("mlx", 8, 32)
    assert read_config(tmp_path / "out")["quantization"]["bits"] == 8
    found = load(str(tmp_path / "out")).model(tokens)
    wanted = load(str(quantized_dir), adapter=adapter).model(tokens)
    assert 0 < np.abs(np.array(found) - np.array(wanted)).max() < 1
    assert facts.drift.mean_kl > 1e-5


def test_too_great_a_drift_leaves_nothing_unless_it_is_wanted(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "earlier.txt").touch()
    with pytest.raises(
        WorkError,
        match=r"nothing was written: .* differ from the unfused model's by [\d.e+-]+ nats on average, above "
        r"--max-drift 0\.001; the adapter itself changes it by [\d.]+\. It was measured on 12 prompts of "
        r"smidgen's own; --prompts FILE .* Use more bits, or no quantisation, raise",
    ):
        export_fused(str(tiny_model_dir), adapter, tmp_path / "out", bits=2, group_size=32, max_drift=0.001)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["earlier.txt"]
    facts = export_fused(
        str(tiny_model_dir), adapter, tmp_path / "out", bits=2, group_size=32, max_drift=0.001, force=True
    )
    assert facts.drift.mean_kl > 0.001
    load(str(tmp_path / "out"))


def test_an_adapter_that_is_rounded_away_is_told(
    make_adapter: Callable[..., Path], tiny_model_dir: Path, tmp_path: Path
):
    faint, options = make_adapter(str(tiny_model_dir), size=0.02), {"group_size": 32, "force": True}
    coarse = export_fused(str(tiny_model_dir), faint, tmp_path / "coarse", bits=2, **options)
    assert coarse.drift.mean_kl > coarse.adapter_effect.mean_kl
    assert coarse.warnings == [
        "the drift is as large as the adapter's effect, which may have been rounded away; evaluate it"
    ]
    assert export_fused(str(tiny_model_dir), faint, tmp_path / "plain").warnings == []


def test_a_model_by_itself_has_no_adapter_to_lose(tiny_model_dir: Path, tmp_path: Path):
    facts = export_fused(str(tiny_model_dir), None, tmp_path / "out")
    assert facts.adapter_effect is None and facts.drift.mean_kl == 0.0


def test_the_licence_goes_with_the_weights(tiny_model_dir: Path, tmp_path: Path):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    (base / "LICENSE").write_text("as it stands", encoding="utf-8")
    export_fused(str(base), None, tmp_path / "out", prompts=PROMPTS)
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "as it stands"


def test_settings_that_do_not_go_together(adapter: Path, tiny_model_dir: Path, tmp_path: Path):
    name = str(tiny_model_dir)
    with pytest.raises(ConfigError, match=r"group_size is 32, but plain weights have no groups; set bits"):
        export_fused(name, adapter, tmp_path / "out", group_size=32)
    with pytest.raises(ConfigError, match=r"max_drift is -1; expected 0 or more nats"):
        export_fused(name, adapter, tmp_path / "out", max_drift=-1)
    with pytest.raises(ConfigError, match=r"'group_size' is 128, which does not divide layers of width"):
        export_fused(name, adapter, tmp_path / "out", bits=4, group_size=128)
    with pytest.raises(ModelError, match=r"the adapter in .* does not fit the model"):
        export_fused("smidgen:nano", adapter, tmp_path / "out")
    with pytest.raises(DataError, match=r"there are no prompts to compare the models on"):
        export_fused(name, adapter, tmp_path / "out", prompts=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_drift_is_the_divergence_of_the_distributions():
    before = [np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32))]
    after = [np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]], np.float32))]
    drift = compare(before, iter(after))
    assert drift.mean_kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2, rel=1e-5)
    assert drift.max_logit_difference == pytest.approx(np.log(2), rel=1e-5)
    assert (drift.same_top, drift.prompts, drift.positions) == (0.5, 1, 2)


def test_prompts_are_spread_cut_to_the_context_and_read_at_their_ends(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    many = [[Message("user", f"answer {number} " * 20)] for number in range(100)]
    rows = token_rows(loaded.tokenizer, many, context=50)
    assert len(rows) == MAX_PROMPTS and {len(row) for row in rows} == {50}
    whole = token_rows(loaded.tokenizer, [many[0], many[-1]], None)
    assert rows[0] == whole[0][-50:] and rows[-1] == whole[1][-50:]
    (scores,) = last_logits(loaded.model, rows[:1])
    np.testing.assert_allclose(
        scores, np.array(loaded.model(mx.array([rows[0]])))[0, -POSITIONS:], rtol=1e-4, atol=1e-4
    )


def test_a_tokenizer_without_a_template_reads_the_text(make_tokenizer_dir: Callable[..., Path]):
    tokenizer = load_tokenizer(make_tokenizer_dir(template=None))
    (row,) = token_rows(tokenizer, [[Message("system", "the"), Message("user", "answer")]], None)
    assert row == tokenizer.encode("the\nanswer")
