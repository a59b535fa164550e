import json
from pathlib import Path

import pytest

from smidgen.data.prompts import read_prompts
from smidgen.data.types import Message
from smidgen.errors import DataError


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_and_conversations_with_their_answers(tmp_path: Path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = ({"prompt": "p"}, {"messages": turns, "target": "t"}, {"prompt": "q", "target": None})
    assert read_prompts(write(tmp_path / "prompts.jsonl", *rows)) == [
        (Message("user", "p"),),
        (Message("system", "s"), Message("user", "u"), Message("assistant", "t")),
        (Message("user", "q"),),
    ]


def test_every_bad_row_is_told(tmp_path: Path):
    file = write(
        tmp_path / "prompts.jsonl",
        {"text": "p"},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": []},
        {"prompt": "p", "target": []},
    )
    with pytest.raises(DataError, match=r"prompts\.jsonl") as caught:
        read_prompts(file)
    for part in (
        "line 1: 'prompt' is missing, expected text",
        "line 2: 'messages' is [{",
        "line 3: 'messages' is [], expected messages with a role and content each",
    ):
        assert part in str(caught.value)
