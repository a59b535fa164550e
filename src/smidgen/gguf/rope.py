"""Rotary scaling of Llama 3.1, which a GGUF file holds as a tensor of divisors and not as settings.

Wavelengths below context / high stay, those above context / low are divided by the factor, and between the
two it is blended (The Llama 3 Herd of Models, https://arxiv.org/abs/2407.21783).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

EXACT = 2e-6
"""How far a divisor computed again may be from the file's, relative: float32 arithmetic of the converter."""


@dataclass(frozen=True)
class Llama3Scaling:
    """The settings, as `config.json` calls them."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    @classmethod
    def of(cls, scaling: Mapping[str, Any]) -> Self:
        """Take them from the `rope_scaling` of a `config.json`."""
        return cls(
            scaling["factor"],
            scaling["low_freq_factor"],
            scaling["high_freq_factor"],
            scaling["original_max_position_embeddings"],
        )

    def divisors(self, theta: float, head_dim: int) -> np.ndarray:
        """Return what each rotary frequency is divided by, (head_dim / 2,) float32."""
        low, high = self.low_freq_factor, self.high_freq_factor
        turns = self.original_max_position_embeddings / _wavelengths(theta, head_dim)
        blend = np.clip((turns - low) / (high - low), 0, 1)
        return (1 / ((1 - blend) / self.factor + blend)).astype(np.float32)

    def settings(self) -> dict[str, Any]:
        """Return the `rope_scaling` of a `config.json`."""
        return {"rope_type": "llama3", **asdict(self)}


def scaling_of_divisors(divisors: np.ndarray, theta: float, head_dim: int) -> Llama3Scaling | None:
    """Return the settings whose divisors are those of a file, (head_dim / 2,); None if there are none.

    The published models' settings are tried first. Others follow from the divisors that are blended: their
    share of the unscaled frequency is a line over 1 / wavelength. Context, low and high are known up to a
    common multiple, which changes nothing; low is taken as 1.
    """
    factor = _short(float(divisors.max()))
    candidates = [Llama3Scaling(factor, 1.0, 4.0, 8192)]
    share = (1 / divisors.astype(np.float64) - 1 / factor) / (1 - 1 / factor) if factor > 1 else divisors
    between = (share > 1e-3) & (share < 1 - 1e-3)
    if between.sum() >= 2:
        slope, offset = np.polyfit(1 / _wavelengths(theta, head_dim)[between], share[between], 1)
        if offset < 0 < slope:
            width = -1 / offset
            candidates.append(Llama3Scaling(factor, 1.0, _short(1 + width, 4), round(float(slope * width))))
    for candidate in candidates:
        if np.allclose(candidate.divisors(theta, head_dim), divisors, rtol=EXACT, atol=0):
            return candidate
    return None


def _wavelengths(theta: float, head_dim: int) -> np.ndarray:
    """Positions that each rotary frequency takes for one turn, (head_dim / 2,) float64."""
    return 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)


def _short(number: float, digits: int = 6) -> float:
    """The number as a person would have written it."""
    return float(f"{number:.{digits}g}")
