"""Escape text for Markdown, so that it does not become a link, a table or HTML."""

import re
import shlex
from typing import Any

_SPECIAL = re.compile(r"[\\`*_\[\]|~$]|^[#+=-]|(?<=^\d)[.)](?=\s)|(?<=^\d\d)[.)](?=\s)")


class Markdown(str):
    """Text that is already Markdown and is not escaped again."""

    __slots__ = ()


def escaped(value: Any) -> str:
    """Return a value as one line of text that Markdown renders literally; `Markdown` stays unchanged."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # renderers turn bare URLs and e-mail addresses into links
    line = re.sub(r"(?<=[A-Za-z])(://|@)|(?<=www)\.", lambda found: "&#8203;" + found[0], line)
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", line)


def code(text: str, language: str = "") -> Markdown:
    """Return a code block whose fence has more backticks than any run in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def argument(text: str) -> str:
    """Return text as one quoted argument of a shell command, on one line."""
    return shlex.quote(" ".join(text.split()))
