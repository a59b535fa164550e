"""Which models llama.cpp can load."""

from typing import Any

from smidgen.errors import ModelError
from smidgen.gguf.names import FAMILIES
from smidgen.models.architectures import explicit_config

YARN_BETAS = {"beta_fast": 32, "beta_slow": 1}
"""What llama.cpp computes yarn scaling with: it reads other betas of few architectures, and none of these."""


def check_architecture(config: dict[str, Any], source: str) -> None:
    """Refuse what llama.cpp cannot load.

    Raises:
        ModelError: the architecture is none that llama.cpp has, or has at these settings.
    """
    kind = config.get("model_type")
    if kind == "llama4_text":
        raise ModelError(
            f"{source} is a dense llama4_text model, which llama.cpp refuses to load "
            "('llama4 model cannot have zero experts'); export it for MLX instead"
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(
            f"{source} has model_type {kind!r}; GGUF files can be written of {', '.join(FAMILIES)}"
        )
    if config.get("rope_traditional"):
        raise ModelError(f"{source} has rope_traditional, which llama.cpp has no setting for")
    rope = explicit_config(config).get("rope_scaling") or {}
    if FAMILIES[kind] != "llama" and rope.get("rope_type") == "llama3":
        raise ModelError(
            f"{source} is a {kind} with rotary scaling of the kind llama3, which llama.cpp has for llama only"
        )
    odd = [f"{name} {rope[name]}" for name, used in YARN_BETAS.items() if rope.get(name, used) != used]
    if odd:
        raise ModelError(
            f"{source} has yarn scaling with {' and '.join(odd)}, but llama.cpp computes with "
            f"{' and '.join(f'{name} {used}' for name, used in YARN_BETAS.items())} whatever a file says; "
            "run or export it with MLX instead"
        )
