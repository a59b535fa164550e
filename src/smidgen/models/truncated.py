"""The first blocks of a model, which draft for the whole (https://arxiv.org/abs/2309.08168)."""

import re
from dataclasses import replace

from smidgen.errors import ModelError
from smidgen.models.graph import body
from smidgen.models.load import LoadedModel, load

FIRST = re.compile(r"(?P<model>.+)\[:(?P<count>\d+)\]")


def load_first(name: str) -> LoadedModel:
    """Load a model, or as `NAME[:N]` its first N blocks with its embedding, last norm and head.

    Raises:
        ModelError: it has N blocks or fewer; also raised as in `load`.
    """
    if (found := FIRST.fullmatch(name)) is None:
        return load(name)
    loaded, count = load(found["model"]), int(found["count"])
    inner = body(loaded.model)
    layers = inner.layers
    if not 0 < count < len(layers):
        raise ModelError(
            f"{name} asks for {count} blocks; expected 1 to {len(layers) - 1} of {found['model']}"
        )
    inner.layers = layers[:count]
    return replace(loaded, config=loaded.config | {"num_hidden_layers": count}, name=name)
