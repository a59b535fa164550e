"""Token ids that files name, held against the vocabulary.

A model folder names its special tokens by id in several files, and these may be of another model: an id that
the vocabulary lacks can be neither written nor read.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from smidgen.errors import ModelError

CONFIGS = ("config.json", "generation_config.json")
KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
NO_PAD = -1
"""What older checkpoints write as `pad_token_id` where there is none."""


class UnknownTokenId(UserWarning):
    """An id that a file names stands for no token, and is ignored."""


def known_ids(
    token_ids: Iterable[int], is_known: Callable[[int], bool], what: str, source: Path
) -> list[int]:
    """Return the ids that a vocabulary has; the others are ignored with a warning.

    Args:
        token_ids: what was named.
        is_known: whether an id stands for a token.
        what: what the ids are, as `end token`, for the warning.
        source: the folder or file that names them.
    """
    token_ids = list(token_ids)
    if unknown := sorted(i for i in token_ids if not is_known(i)):
        warnings.warn(
            f"{source} names the {what} {', '.join(map(str, unknown))}, which the vocabulary does not have; "
            "it is ignored, so check that its config files belong to this model",
            UnknownTokenId,
            stacklevel=2,
        )
    return [i for i in token_ids if is_known(i)]


def known_ends(token_ids: Iterable[int], is_known: Callable[[int], bool], source: Path) -> frozenset[int]:
    """Return the end tokens that a vocabulary has; see `known_ids`.

    Raises:
        ModelError: end tokens are named and it has none of them.
    """
    named = sorted(token_ids)
    if not (kept := [i for i in named if is_known(i)]) and named:
        raise ModelError(
            f"{source} names the end tokens {', '.join(map(str, named))}, and its vocabulary has none of "
            "them, so completions would never end; set eos_token_id in generation_config.json to the model's"
        )
    return frozenset(known_ids(named, is_known, "end token", source) if len(kept) < len(named) else kept)


def unknown_in_configs(folder: Path, is_known: Callable[[int], bool]) -> list[str]:
    """Return a sentence for each id in the config files of a folder that its vocabulary does not have."""
    faults = []
    for name in CONFIGS:
        file = folder / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError):
            continue  # reading the tokenizer says so
        for key in KEYS if isinstance(config, dict) else ():
            value = config.get(key)
            ids = value if isinstance(value, list) else [] if value is None else [value]
            if key == "pad_token_id" and ids == [NO_PAD]:
                continue
            faults += [
                f"{key} in {name} names {token!r}, which the vocabulary does not have"
                for token in ids
                if type(token) is not int or not is_known(token)
            ]
    return faults
