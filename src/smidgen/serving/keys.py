"""API keys: read from a file or the environment, compared in constant time, never logged."""

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from smidgen.errors import ConfigError
from smidgen.files import read_text

VARIABLE = "SMIDGEN_API_KEYS"
MIN_LENGTH = 16
"""Characters of a key; 16 of base64 are 96 bits, beyond guessing."""


class Keys:
    """The digests of the keys that a server takes; false if it asks for none."""

    def __init__(self, keys: Iterable[str] = ()):
        """Take keys.

        Raises:
            ConfigError: one is too short, or has characters that no header can carry.
        """
        given = list(dict.fromkeys(keys))
        for number, key in enumerate(given, start=1):
            if len(key) < MIN_LENGTH:
                raise ConfigError(
                    f"API key {number} has {len(key)} characters; expected {MIN_LENGTH} or more, such as "
                    "those of `openssl rand -hex 24`"
                )
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise ConfigError(
                    f"API key {number} has a character that a header cannot carry; expected ASCII without "
                    "spaces, such as the keys of `openssl rand -hex 24`"
                )
        self._digests = [_digest(key.encode()) for key in given]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client_of(self, key: bytes) -> str | None:
        """Return a short hash that tells the clients apart, or None if the key is not one of these.

        The time does not depend on which key it is, nor on how much of one is right.
        """
        digest, found = _digest(key), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return f"key-{digest.hex()[:8]}" if found else None


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Read keys from a file, one per line, and from the variable SMIDGEN_API_KEYS, separated by commas.

    Empty lines of the file and those that begin with `#` are skipped.

    Raises:
        ConfigError: a key is unfit, or the file has none.
        DataError: the file cannot be read.
    """
    lines = [] if file is None else read_text(file, "file of API keys").splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if file is not None and not found:
        raise ConfigError(f"{file} has no API key; expected one per line")
    named = [key.strip() for key in environment.get(VARIABLE, "").split(",") if key.strip()]
    return Keys([*found, *named])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
