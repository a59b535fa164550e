"""Chunks of a stream."""

import json

from smidgen.serving.generation import data_line


def test_a_chunk_is_one_line_for_every_client():
    said = {"text": "one\u2028two\u2029three\x85four\nfive\r\x0b\x1csix 字"}
    text = data_line(said).decode()
    assert text.endswith("\n\n") and len(text.splitlines()) == 2 and "字" in text
    assert json.loads(text.removeprefix("data: ")) == said
