"""The names of what a server serves: the base model, and adapters on it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from smidgen.errors import ConfigError, did_you_mean
from smidgen.serving.faults import NOT_FOUND, ApiError


class ModelEntry(TypedDict):
    """A model in the list."""

    id: str
    object: str
    created: int
    owned_by: str
    parent: NotRequired[str]


class ModelList(TypedDict):
    """Answer of `/v1/models`."""

    object: str
    data: list[ModelEntry]


@dataclass(frozen=True)
class ModelNames:
    """The base model's name, and the folder of each adapter by its name.

    Attributes:
        base: name of the base model.
        adapters: folder of each adapter.
        created: when the server was started, in seconds since 1970.
    """

    base: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def adapter_of(self, name: str | None) -> Path | None:
        """Return the adapter that a request's model names; None is the base model.

        Raises:
            ApiError: 404, there is no such model.
        """
        if name is None or name == self.base:
            return None
        if name not in self.adapters:
            known = [self.base, *self.adapters]
            raise ApiError(
                404,
                f"there is no model '{name[:80]}'.{did_you_mean(name[:80], known)} "
                f"This server has {', '.join(known)}",
                NOT_FOUND,
                param="model",
                code="model_not_found",
            )
        return self.adapters[name]

    def listing(self) -> ModelList:
        """Return the list of models."""
        return {"object": "list", "data": [self.entry(name) for name in (self.base, *self.adapters)]}

    def entry(self, name: str) -> ModelEntry:
        """Return a model of the list; raises as `adapter_of` does."""
        adapter = self.adapter_of(name)
        entry: ModelEntry = {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "smidgen",
        }
        return entry if adapter is None else {**entry, "parent": self.base}


def named_adapters(given: Sequence[str], base: str) -> dict[str, Path]:
    """Read adapters that are given as NAME=PATH.

    Raises:
        ConfigError: one has no name or no path, a name occurs twice, or there is nothing at a path.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, sign, path = each.partition("=")
        if not (name and sign and path):
            raise ConfigError(f"the adapter is '{each}', expected NAME=PATH, such as judge=runs/judge/best")
        if name in found or name == base:
            raise ConfigError(f"the name '{name}' is given twice; each model needs a name of its own")
        found[name] = Path(path).expanduser()
        if not found[name].exists():
            raise ConfigError(f"there is no adapter at {path}; check the path of '{name}'")
    return found
