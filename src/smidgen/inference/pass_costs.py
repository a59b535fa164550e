"""The time of a forward pass by its number of tokens, measured once on a machine for a shape of model."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.backend import blas, device
from smidgen.cache import cache_dir
from smidgen.errors import WorkError
from smidgen.files import sha256_json, write_json
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import ForwardPass

FORMAT = 1
"""Version of the measurement; increment it when its results would change."""
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONTEXT = 256
"""Cached tokens of the row that is measured."""
TURNS, PATIENCE = 50, 2.0
"""Most times that each width is measured, since other programs disturb; seconds after which that ends."""
PACKAGES = ("smidgen", "mlx", "numpy")


class PassCosts:
    """Seconds of a pass of given numbers of tokens."""

    def __init__(self, seconds: Mapping[int, float]):
        """Interpolate between measured widths.

        Args:
            seconds: time by number of tokens, for two numbers or more.
        """
        self._widths = np.array(sorted(seconds))
        measured = np.array([seconds[width] for width in self._widths])
        # Disturbances only add to a time, so a wider pass that took less bounds it.
        self._seconds = np.minimum.accumulate(measured[::-1])[::-1]

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return the seconds for each number of tokens; beyond the last width, as the widest per token."""
        found = np.interp(tokens, self._widths, self._seconds)
        return found * np.maximum(1.0, tokens / self._widths[-1])

    def of(self, tokens: int) -> float:
        """Return the seconds of a pass of `tokens`."""
        return float(self(np.array([tokens]))[0])


def pass_costs(forward: ForwardPass, shape: Mapping[str, Any]) -> PassCosts:
    """Return the times of passes, from the cache folder or measured.

    Args:
        forward: the model.
        shape: what the times depend on besides the machine, such as the content of `config.json`.
    """
    versions = [metadata.version(name) for name in PACKAGES]
    machine = [device().name, device().cores, blas().name, blas().threads, versions]
    facts = {"shape": dict(shape), "machine": machine, "format": FORMAT}
    file = cache_dir() / "passes" / f"{sha256_json(facts)[:32]}.json"
    if (known := _read(file)) is None:
        known = measure(Decoder(forward), CONTEXT)
        if os.getloadavg()[0] > device().cores:
            return PassCosts(known)  # of a machine that was busy, and will not always be
        with suppress(WorkError):  # the cache folder may be read-only or full
            write_json(file, facts | {"seconds": {str(width): each for width, each in known.items()}})
    return PassCosts(known)


def measure(decoder: Decoder, cached: int, widths: Sequence[int] = WIDTHS) -> dict[int, float]:
    """Measure passes of a row with `cached` tokens, choice of tokens included; the best times count.

    Returns:
        Seconds by number of tokens. The decoder has no rows, before and after.
    """
    xp = decoder.xp
    decoder.add([[0] * cached])
    seconds: dict[int, float] = {}
    begun = time.perf_counter()
    for turn in range(1 + TURNS):
        if turn > 1 and time.perf_counter() - begun > PATIENCE:
            break
        for width in widths:
            started = time.perf_counter()
            np.asarray(xp.argmax(decoder.step([[0] * width]), axis=-1))
            elapsed = time.perf_counter() - started
            decoder.rollback([width])
            if turn > 0:  # the first turn warms up
                seconds[width] = min(seconds.get(width, elapsed), elapsed)
    decoder.clear()
    return seconds


def _read(file: Path) -> dict[int, float] | None:
    """Return the times in a file; None if there are none that can be read."""
    try:
        seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
        found = {int(width): float(each) for width, each in seconds.items()}
        return found if len(found) > 1 and min(found.values()) > 0 else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
