"""A thousand malformed rows, files and templates: a clear error each, or a row left out and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.cli.app import exit_code
from smidgen.data.formats import pairs
from smidgen.data.rows import read_rows
from smidgen.errors import ConfigError, DataError
from smidgen.tasks.judge.forms import Case
from smidgen.tasks.templates import find_form

ASKED, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}
NO_TEXT = [None, ["x"], {"k": 1}, float("nan")]
NO_QUESTION = [*NO_TEXT, "", " \n"]
NO_CHAT = ["x", 3, None, [], [3], [{"role": "user"}], [{"content": "x"}], {}]
GOOD: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "own": (
        {"prompt": "q", "a": "x", "b": "y", "better": "a"},
        {"prompt": NO_QUESTION, "a": NO_TEXT, "b": NO_TEXT, "better": ["c", "", 1, True, ["a"]]},
    ),
    "llmbar": (
        {"input": "q", "output_1": "x", "output_2": "y", "label": 2},
        {"input": NO_QUESTION, "output_1": NO_TEXT, "output_2": NO_TEXT, "label": [0, 3, "1", True, None]},
    ),
    "rewardbench": (
        {"prompt": "q", "chosen": "x", "rejected": "y", "subset": "hep-go"},
        {"prompt": NO_QUESTION, "chosen": [None, {}], "rejected": [None, {}], "subset": [{}, ["x"]]},
    ),
    "rmbench": (
        {"prompt": "q", "chosen": ["x", "z"], "rejected": ["y", "w"]},
        {"prompt": NO_QUESTION, "chosen": [[], ["x", None], "x"], "rejected": [[], [None], "y"]},
    ),
    "judgelm": (
        {"question_body": "q", "answer1_body": "x", "answer2_body": "y", "score": [1, 2]},
        {"question_body": NO_QUESTION, "answer1_body": NO_TEXT, "answer2_body": NO_TEXT}
        | {"score": [[float("nan"), 3], [True, False], [1, 2, 3], 4, "1 2"]},
    ),
    "pandalm": (
        {"instruction": "q", "input": "", "response1": "x", "response2": "y"}
        | {"annotator1": 1, "annotator2": 2, "annotator3": 0},
        {"instruction": NO_TEXT, "response1": NO_TEXT, "annotator2": [3, -1, "1", None, True]},
    ),
    "autoj": (
        {"prompt": "q", "response 1": "x", "response 2": "y", "label": 2},
        {"prompt": NO_QUESTION, "response 1": NO_TEXT, "response 2": NO_TEXT, "label": [3, "a", None, False]},
    ),
    "mtbench": (
        {"conversation_a": [ASKED, SAID], "conversation_b": [ASKED, SAID], "winner": "tie", "turn": 1},
        {"conversation_a": NO_CHAT, "conversation_b": NO_CHAT, "winner": ["a", None, 1, ["tie"]]},
    ),
    "judgebench": (
        {"question": "q", "response_A": "x", "response_B": "y", "label": "A>B", "source": "s"},
        {"question": NO_QUESTION, "response_A": NO_TEXT, "label": ["A", None, 1, "a>b"]},
    ),
}


@st.composite
def broken_row(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A format, the field that is broken, and the row: the field is gone or holds what it must not."""
    name = draw(st.sampled_from(sorted(GOOD)))
    row, bad = GOOD[name]
    field = draw(st.sampled_from(sorted(bad)))
    changed = dict(row)
    if field not in ("better", "subset") and draw(st.booleans()):
        del changed[field]
    else:
        changed[field] = draw(st.sampled_from(bad[field]))
    return name, field, changed


@pytest.mark.slow
@settings(max_examples=300)
@given(broken_row(), st.integers(0, 3), st.integers(0, 3))
def test_a_broken_row_is_named_or_left_out(broken: tuple[str, str, dict[str, Any]], before: int, after: int):
    name, field, row = broken
    before += 2  # a file is read in the format that most of its rows have
    good = GOOD[name][0]
    rows = [*[good] * before, row, *[good] * after]
    with pytest.raises(DataError) as caught:
        pairs(rows, source="mine")
    assert f"row {before + 1}" in str(caught.value) and f"'{field}'" in str(caught.value)
    rejected: list[str] = []
    found = pairs(rows, source="mine", rejected=rejected)
    assert len(rejected) == 1 and f"row {before + 1}" in rejected[0]
    assert len(found) == (before + after) * len(pairs([good]))


LINES = [json.dumps(row) for row, _ in GOOD.values()]


@pytest.mark.slow
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path: Path, capsys: Any, data: st.DataObject):
    """Bytes of a file of rows are lost, changed or put in; the command ends with 0 or 2 and one sentence."""
    content = bytearray("\n".join([data.draw(st.sampled_from(LINES))] * 3).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        size = data.draw(st.integers(0, 5))
        content[at : at + size] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"\n", b"\\"])
        )
    file, said = tmp_path / "rows.jsonl", tmp_path / "said.jsonl"
    file.write_bytes(bytes(content))
    said.write_text('{"id": "1", "order": "ab", "text": "[[A]]"}\n')
    command = ["evaluate", "judge", "--engine", "replay", "--model", str(said), "--data", str(file)]
    code = exit_code([*command, "--template", "verdict"])
    message = capsys.readouterr().err
    assert code == 2 and message.startswith("error: ") and "Traceback" not in message
    try:
        read_rows(file)
    except DataError as error:
        assert "rows.jsonl" in str(error)


TEMPLATE = """\
system = "You judge."
user = '''Q: {{ prompt }}
1: {{ a }}
2: {{ b }}{% if reference %} R: {{ reference }}{% endif %}'''
stop = ["END"]
[parse]
regex = 'Winner: (?P<winner>\\w+)'
"""


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_template_is_read_or_refused_in_a_sentence(tmp_path: Path, data: st.DataObject):
    text = TEMPLATE
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(text) - 1)))
        size = data.draw(st.sampled_from([0, 1, 2, 10, 40]))
        text = text[:at] + data.draw(st.text("{}%()'\"[]=\n\\?x", max_size=3)) + text[at + size :]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    try:
        form = find_form(str(path))
        form.messages(Case("q", "x", "y", "r"))
    except ConfigError as error:
        assert "mine" in str(error) and "\n" not in str(error).strip()
