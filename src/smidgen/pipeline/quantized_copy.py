"""A quantised copy of any model, as `smidgen quantize` writes it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smidgen.config import WORLD, QuantizeConfig
from smidgen.export.facts import DriftFacts
from smidgen.models.load import load
from smidgen.models.save import save_model, stored_dtype
from smidgen.pipeline.calibration_texts import calibration_rows
from smidgen.pipeline.events import Work
from smidgen.pipeline.quantizing import QuantizationFacts, quantized_name, shrink, write_sensitivity
from smidgen.pipeline.shipping import Publication, Published, card_source, publish


@dataclass(frozen=True)
class QuantizedExport:
    """A quantised copy of a model."""

    facts: QuantizationFacts
    format: str = field(default="mlx", init=False)
    drift: DriftFacts | None = field(default=None, init=False)
    adapter_effect: DriftFacts | None = field(default=None, init=False)
    warnings: Sequence[str] = field(default=(), init=False)

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return self.facts.bytes

    def to_json(self) -> dict[str, Any]:
        """Return the format with the sizes and settings."""
        return {"format": self.format, **asdict(self.facts)}


def quantize_model(name: str, out: Path, settings: QuantizeConfig) -> Work[Published[QuantizedExport]]:
    """Write a quantised copy of a model and its model card atomically."""
    loaded = load(name)

    def rows() -> list[list[int]]:
        source = settings.calibration or WORLD
        return calibration_rows(source, loaded.tokenizer, settings.calibration_tokens)

    dtype = stored_dtype(loaded.path)
    done = yield from shrink(loaded, settings, rows, dtype=dtype, record=None)

    def make(folder: Path) -> QuantizedExport:
        save_model(folder, loaded.model, done.config, loaded.path, dtype=dtype)
        write_sensitivity(folder, done)
        return QuantizedExport(done.facts())

    nowhere = Publication()
    return publish(make, out, card_source(name, None, nowhere), quantized_name(settings), nowhere)
