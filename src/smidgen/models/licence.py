"""What a model may be used for, as far as its folder tells.

A licence is read from the front matter of the model card or from the licence file, and where there is
neither, known from the architecture. Whatever is made of a model (quantised, merged, exported) inherits it.
"""

import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_save

LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
"""Files that state a licence; they go where the weights go."""
FAIR = "FAIR Noncommercial Research License"
MOBILELLM = "llama4_text"
"""The only dense models of this type that are published are MobileLLM-R1's."""

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"^(license(?:_name|_link)?):[ \t]*['\"]?([^'\"\n#]+)", re.MULTILINE)
_NONCOMMERCIAL = re.compile(r"non-?commercial|(?:^|[-_ ])nc(?:[-_ ]|$)", re.IGNORECASE)


class LicenceNotice(UserWarning):
    """A model is loaded or exported that may not be used commercially."""


@dataclass(frozen=True)
class Licence:
    """A licence by its name, and where that stands."""

    name: str
    source: str

    @property
    def is_noncommercial(self) -> bool:
        """Whether commercial use is ruled out."""
        return bool(_NONCOMMERCIAL.search(self.name))


def licence_of(folder: Path, config: dict[str, Any]) -> Licence | None:
    """Return the licence of a model folder, or None where nothing tells.

    Args:
        folder: of the model.
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


def warn_of_licence(folder: Path, config: dict[str, Any]) -> None:
    """Warn, in one line, of a licence that rules out commercial use."""
    licence = licence_of(folder, config)
    if licence is not None and licence.is_noncommercial:
        parts = ["the model", "what is made of it", *(["its answers"] if licence.name == FAIR else [])]
        warnings.warn(
            f"{folder} is under the {licence.name} (told by {licence.source}): "
            f"{', '.join(parts[:-1])} and {parts[-1]} are not for commercial use",
            LicenceNotice,
            stacklevel=2,
        )


def card_licence(folder: Path) -> dict[str, str]:
    """Return what the front matter of a model card says: `license`, `license_name`, `license_link`.

    It is read by lines: a card is prose of others, and one that is no proper YAML has a licence too.
    """
    card = folder / "README.md"
    matter = card.is_file() and _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    return {key: value.strip() for key, value in _KEY.findall(matter[1] if matter else "")}


def copy_licence(source: Path, folder: Path) -> None:
    """Copy the licence files of a model folder, and of its model card what that says of the licence."""
    for name in LICENCE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if said := card_licence(source):
        metadata_save(folder / "README.md", said)


def _title(file: Path) -> str:
    """The first line of a licence that is not empty."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip(" #*\t") for line in lines if line.strip(" #*\t")), "")


def _is_fair(name: str) -> bool:
    return bool(re.search(r"\bfair\b", name, re.IGNORECASE)) and bool(_NONCOMMERCIAL.search(name))
