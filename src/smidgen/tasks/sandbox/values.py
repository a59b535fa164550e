"""Plain values as JSON, and messages over pipes: all that passes between a program and its tests.

Numbers, texts, bytes, lists, tuples, sets, dicts, ranges and the built-in types are copied; what extends one
of them becomes a plain one.
Anything else passes as a reference, which only the process that has the object can follow. Reading them
needs no trust in the writer: no class, function or comparison of the other side comes along.
"""

import json
import os
from collections.abc import Callable
from typing import Any

LONGEST_MESSAGE = 16 << 20
"""Bytes of a message; what is longer counts as an error of its sender."""
_EXACT = 1 << 53
_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "range": lambda ends: range(*ends),
    "complex": lambda parts: complex(*parts),
}
_TYPES = {
    kind.__name__: kind
    for kind in (
        bool,
        bytes,
        complex,
        dict,
        float,
        frozenset,
        int,
        list,
        object,
        range,
        set,
        str,
        tuple,
        type,
    )
}


class MessageError(Exception):
    """The other side sent something that is no message."""


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """Return a value as JSON data; `refer` returns the reference for what cannot be copied."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__int__(value)
        return number if abs(number) < _EXACT else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item, refer) for item in value]
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, dict):
        pairs = value.items()
        return {"dict": [{"tuple": [encode(key, refer), encode(item, refer)]} for key, item in pairs]}
    for name, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {name: [encode(item, refer) for item in value]}
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return {"type": value.__name__}
    return {"reference": refer(value)}


def decode(data: Any, follow: Callable[[Any], Any]) -> Any:
    """Return the value of JSON data; `follow` returns the object of a reference.

    Raises:
        MessageError: the data is not of `encode`.
    """
    if isinstance(data, list):
        return [decode(item, follow) for item in data]
    if not isinstance(data, dict):
        return data
    try:
        ((kind, content),) = data.items()
        if kind == "reference":
            return follow(content)
        if kind == "int":
            return int(content, 16)
        if kind == "type":
            return _TYPES[content]
        if kind == "bytes":
            return bytes.fromhex(content)
        return _CONTAINERS[kind]([decode(item, follow) for item in content])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MessageError("a value that is not of this protocol") from None


def send(pipe: int, message: Any) -> None:
    """Write a message.

    Raises:
        MessageError: it is too long.
        OSError: nobody reads.
    """
    text = json.dumps(message).encode()
    if len(text) > LONGEST_MESSAGE:
        raise MessageError("a value that is too large")
    data = memoryview(len(text).to_bytes(4, "big") + text)
    while data:
        data = data[os.write(pipe, data) :]


def receive(pipe: int) -> Any:
    """Read a message.

    Raises:
        EOFError: the other side ended.
        MessageError: it is too long, or not JSON.
    """
    length = int.from_bytes(_read(pipe, 4), "big")
    if length > LONGEST_MESSAGE:
        raise MessageError("a value that is too large")
    try:
        return json.loads(_read(pipe, length))
    except (ValueError, RecursionError):
        raise MessageError("a message that is not JSON") from None


def _read(pipe: int, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = os.read(pipe, min(length - len(pieces), 1 << 20))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)
