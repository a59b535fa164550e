"""Small models; `smidgen.models` is imported before the tests import anything of mlx-lm."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.models.load import read_config


@pytest.fixture
def tokens() -> mx.array:
    """Two rows of 40 token ids of the tiny model."""
    return mx.array(np.random.default_rng(0).integers(0, 300, (2, 40)), mx.int32)


@pytest.fixture
def edited(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the tiny model with keys of its config.json replaced, or removed where None."""

    def edit(**changes: Any) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(tiny_model_dir, folder)
        config = {**read_config(folder), **changes}
        config = {name: value for name, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return edit
