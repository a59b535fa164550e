"""The programs that a card shows for transformers and PEFT run as they stand there."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from smidgen.config import LoraConfig
from smidgen.export.card import write_card
from smidgen.export.fused import export_fused
from smidgen.export.peft_adapter import export_peft
from smidgen.models.load import resolve

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize("format", ["fused", "peft"])
def test_it_answers(
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    format: str,
):
    pytest.importorskip("torch")
    adapter, base = make_adapter("smidgen:nano", LoraConfig(), size=0.001), str(resolve("smidgen:nano"))
    if format == "fused":
        export_fused(base, adapter, tmp_path / "made")
    else:
        export_peft(adapter, base, tmp_path / "made")
    write_card(tmp_path / "made", {"model": {"base": base}}, artefact=format, format=format)
    text = (tmp_path / "made/README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # on a card the base is a name on the hub, never a place on this machine
    exec(program.replace('"nano"', json.dumps(base)), {})
    assert capsys.readouterr().out.strip()
