"""The licence of a model, as far as its folder tells.

It is read from the front matter of the model card or from the licence file. Without either, it may be known
from the architecture. Models derived from it (quantised, merged, exported) inherit the licence.
"""

import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import metadata_save

from smidgen.models.architectures import ModelConfigJson

LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
"""Licence files; they are copied along with the weights."""
FAIR = "FAIR Noncommercial Research License"
MOBILELLM = "llama4_text"
"""The only dense models of this type that are published are MobileLLM-R1's."""
NOT_CHOSEN = "Not chosen yet"
"""`license_name` of a model that was trained from random weights: its owner may choose any licence."""

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"^(license(?:_name|_link)?):[ \t]*['\"]?([^'\"\n#]+)", re.MULTILINE)
_NONCOMMERCIAL = re.compile(r"non-?commercial|(?:^|[-_ ])nc(?:[-_ ]|$)", re.IGNORECASE)


class LicenceNotice(UserWarning):
    """The model that is loaded or exported is not licensed for commercial use."""


@dataclass(frozen=True)
class Licence:
    """A licence: its name, and the file or fact it was read from."""

    name: str
    source: str

    @property
    def is_noncommercial(self) -> bool:
        """Whether commercial use is ruled out."""
        return bool(_NONCOMMERCIAL.search(self.name))


def licence_of(folder: Path, config: ModelConfigJson) -> Licence | None:
    """Return the licence of a model folder, or None if it is not known.

    Args:
        folder: the model folder.
        config: the content of its `config.json`.
    """
    card = card_licence(folder)
    name = card.get("license", "other")
    if name := card.get("license_name") if name == "other" else name:
        return Licence(FAIR if _is_fair(name) else name, "README.md")
    for file in LICENCE_FILES:
        if (folder / file).is_file() and (title := _title(folder / file)):
            return Licence(FAIR if _is_fair(title) else title, file)
    if config.get("model_type") == MOBILELLM:
        return Licence(FAIR, "the architecture, which is MobileLLM-R1's")
    return None


def warn_of_licence(folder: Path, config: ModelConfigJson) -> None:
    """Warn if the licence rules out commercial use."""
    licence = licence_of(folder, config)
    if licence is not None and licence.is_noncommercial:
        parts = ["the model", "models made from it", *(["its answers"] if licence.name == FAIR else [])]
        warnings.warn(
            f"{folder} is under the {licence.name} (according to {licence.source}): "
            f"{', '.join(parts[:-1])} and {parts[-1]} are not for commercial use",
            LicenceNotice,
            stacklevel=2,
        )


def card_licence(folder: Path) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` from the front matter of a model card.

    The front matter is read line by line, because cards with invalid YAML have a licence too.
    """
    card = folder / "README.md"
    matter = card.is_file() and _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    return {key: value.strip() for key, value in _KEY.findall(matter[1] if matter else "")}


def copy_licence(source: Path, folder: Path) -> None:
    """Copy the licence files of a model folder, and the licence entries of its model card."""
    for name in LICENCE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if entries := card_licence(source):
        metadata_save(folder / "README.md", entries)


def mark_own(folder: Path) -> None:
    """Say in the card of a model from random weights that its licence is not that of its architecture."""
    metadata_save(folder / "README.md", {"license": "other", "license_name": NOT_CHOSEN})


def _title(file: Path) -> str:
    """The first non-empty line of a licence file."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip(" #*\t") for line in lines if line.strip(" #*\t")), "")


def _is_fair(name: str) -> bool:
    return bool(re.search(r"\bfair\b", name, re.IGNORECASE)) and bool(_NONCOMMERCIAL.search(name))
