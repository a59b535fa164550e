"""Check token ids in config files against the vocabulary.

A model folder gives the ids of its special tokens in several files, which may have been copied from another
model: an id that is not in the vocabulary can be neither generated nor decoded.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from smidgen.errors import ModelError

CONFIGS = ("config.json", "generation_config.json")
KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
NO_PAD = -1
"""The `pad_token_id` of older checkpoints without a padding token."""


class UnknownTokenId(UserWarning):
    """A token id in a file is not in the vocabulary and is ignored."""


def known_ids(
    token_ids: Iterable[int], is_known: Callable[[int], bool], what: str, source: Path
) -> list[int]:
    """Return the ids that are in the vocabulary; the others are ignored with a warning.

    Args:
        token_ids: ids from a file.
        is_known: whether an id is in the vocabulary.
        what: what the ids are, such as `end token`, for the warning.
        source: the folder or file that contains them.
    """
    token_ids = list(token_ids)
    if unknown := sorted(i for i in token_ids if not is_known(i)):
        warnings.warn(
            f"{source} has the {what} {', '.join(map(str, unknown))}, which is not in the vocabulary; "
            "it is ignored, so check that the config files belong to this model",
            UnknownTokenId,
            stacklevel=2,
        )
    return [i for i in token_ids if is_known(i)]


def known_ends(token_ids: Iterable[int], is_known: Callable[[int], bool], source: Path) -> frozenset[int]:
    """Return the end tokens that are in the vocabulary; see `known_ids`.

    Raises:
        ModelError: end tokens are given, but none is in the vocabulary.
    """
    named = sorted(token_ids)
    if not (kept := [i for i in named if is_known(i)]) and named:
        raise ModelError(
            f"{source} has the end tokens {', '.join(map(str, named))}, none of which is in the vocabulary, "
            "so completions would never end; set eos_token_id in generation_config.json to that of the model"
        )
    return frozenset(known_ids(named, is_known, "end token", source) if len(kept) < len(named) else kept)


def unknown_in_configs(folder: Path, is_known: Callable[[int], bool]) -> list[str]:
    """Return a sentence for each id in the config files of a folder that is not in its vocabulary."""
    faults = []
    for name in CONFIGS:
        file = folder / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError):
            continue  # loading the tokenizer reports this
        for key in KEYS if isinstance(config, dict) else ():
            value = config.get(key)
            ids = value if isinstance(value, list) else [] if value is None else [value]
            if key == "pad_token_id" and ids == [NO_PAD]:
                continue
            faults += [
                f"{key} in {name} is {token!r}, which is not in the vocabulary"
                for token in ids
                if type(token) is not int or not is_known(token)
            ]
    return faults
