"""A calibrated ensemble as a JSON file: its judges, how they are asked, and how they are combined.

The file names each judge by what loads it, and holds the hash of its weights: what was calibrated with one
model says nothing about another.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from smidgen.config import Section
from smidgen.errors import ConfigError, DataError
from smidgen.files import read_text, sha256_file, write_json
from smidgen.tasks.judge.abstention import Threshold
from smidgen.tasks.judge.calibrating import Calibrated
from smidgen.tasks.judge.combination import Combination, Method
from smidgen.tasks.judge.judge_task import JudgeTask


class SavedJudge(Section):
    """One judge: the options of its engine that decide what it says, and its hash."""

    model: str
    adapter: str | None = None
    engine: str = "auto"
    model_name: str | None = None
    thinking: bool = False
    kv_bits: int | None = None
    sha256: str
    """Of the weights with the adapter, of a recording, or of a server's address."""

    def options(self) -> dict[str, Any]:
        """The options of the judge's engine, by name."""
        return self.model_dump(exclude={"sha256"})


class SavedAsking(Section):
    """How every judge is asked."""

    template: str
    """Name of the template, with which its judgements are parsed."""
    template_sha256: str | None = None
    """Hash of a template that is a file."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task."""
    task_version: int
    method: str = Field(default="generate", pattern="^(generate|logits)$")
    """Evaluation method of the task."""
    samples: int = Field(default=1, ge=1)
    """Judgements per order."""
    max_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0)
    seed: int

    @field_validator("settings")
    @classmethod
    def _check(cls, settings: dict[str, Any]) -> dict[str, Any]:
        JudgeTask.settings_table.model_validate_json(json.dumps(settings))  # tuples are lists there
        return settings


class SavedThreshold(Section):
    """The threshold of a risk and the test that it passed; see `smidgen.tasks.judge.abstention.Threshold`."""

    threshold: float | None = None
    risk: float
    delta: float
    prompts: int
    answered: int
    wrong: int
    bound: float | None = None
    needed: int


class SavedCalibration(Section):
    """The rows that an ensemble was calibrated on."""

    source: str
    pairs: int
    sha256: str
    """Of the pairs with their labels."""
    prompts: tuple[str, ...]
    """Hashes of their prompts, so that the ensemble is never evaluated on them."""


class SavedEnsemble(Section):
    """The content of the file."""

    kind: Literal["smidgen judge ensemble"] = "smidgen judge ensemble"
    smidgen: str
    """Version of smidgen."""
    judges: tuple[SavedJudge, ...]
    asking: SavedAsking
    combine: Method
    weights: tuple[float, ...] | None = None
    abstention: SavedThreshold | None = None
    calibration: SavedCalibration | None = None

    @property
    def calibrated(self) -> Calibrated:
        """The combination and the test of its threshold."""
        kept = self.abstention
        if kept is None:
            return Calibrated(Combination(self.combine, self.weights), None)
        threshold = Threshold(
            **{**dict(kept), "threshold": math.inf if kept.threshold is None else kept.threshold}
        )
        return Calibrated(Combination(self.combine, self.weights, threshold.threshold), threshold)

    def check(self, path: Path, hashes: Sequence[str]) -> None:
        """Check that the judges are those that were calibrated.

        Raises:
            ConfigError: the hash of one of them, the template or the version of the task differs.
        """
        template, version = self.asking.template, self.asking.task_version
        if version != JudgeTask.version:
            raise ConfigError(
                f"{path} was calibrated with version {version} of the task judge, and this is version "
                f"{JudgeTask.version}; calibrate again with `smidgen evaluate judge --calibrate`"
            )
        if self.asking.template_sha256 != template_hash(template):
            raise ConfigError(
                f"the template {template} is not the one that {path} was calibrated with; restore it, or "
                "calibrate again with `smidgen evaluate judge --calibrate`"
            )
        for number, (judge, found) in enumerate(zip(self.judges, hashes, strict=True), start=1):
            if judge.sha256 != found:
                name = f"{judge.model} + {judge.adapter}" if judge.adapter else judge.model
                raise ConfigError(
                    f"judge {number} of {path}, {name}, has other weights than those that were calibrated; "
                    "restore them, or calibrate again with `smidgen evaluate judge --calibrate`"
                )


def template_hash(name: str) -> str | None:
    """Return the hash of a template that is a file; None for a built-in or a missing one."""
    return sha256_file(Path(name)) if name.endswith(".toml") and Path(name).is_file() else None


def save_ensemble(path: Path, ensemble: SavedEnsemble) -> None:
    """Write the file."""
    write_json(path, ensemble.model_dump(mode="json", exclude_none=True))


def read_ensemble(path: Path) -> SavedEnsemble:
    """Read the file.

    Raises:
        DataError: it is missing, or is no ensemble.
    """
    if not path.is_file():
        raise DataError(f"there is no ensemble at {path}; expected a file that `evaluate judge --out` wrote")
    try:
        found = SavedEnsemble.model_validate_json(read_text(path, "ensemble"))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"'{place}' " for place in first["loc"])
        raise DataError(
            f"{path} is not an ensemble ({where}{first['msg']}); expected a file that `evaluate judge --out` "
            "wrote"
        ) from None
    if (found.weights is None) != (found.combine == "majority") or (
        found.weights is not None and len(found.weights) != len(found.judges)
    ):
        raise DataError(f"{path} has {found.combine} with other weights than its judges; calibrate again")
    return found
