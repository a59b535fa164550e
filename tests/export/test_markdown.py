import re
import shlex

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from smidgen.export.markdown import Markdown, argument, code, escaped

MARKUP = st.text(st.sampled_from("ab1 \t\n\\`*_{}[]()#+-.!|~$<>&=:/@'\"")) | st.text()
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def shown(markdown: str) -> str:
    """The text of Markdown that is one paragraph of nothing but text."""
    tokens = READER.parse(markdown)
    assert [token.type for token in tokens] in (
        [],
        ["paragraph_open", "inline", "paragraph_close"],
    ), markdown
    pieces = (tokens[1].children or []) if tokens else []
    assert all(piece.type in ("text", "text_special") for piece in pieces), markdown
    return "".join(piece.content for piece in pieces).replace("\u200b", "")


@given(MARKUP)
def test_whatever_stands_in_data_is_shown_as_text(text: str):
    line = " ".join(text.split()).replace("\u200b", "").replace("\x00", "\ufffd")
    assert shown(escaped(text)) == line


@given(MARKUP)
def test_a_cell_of_a_table_stays_one_cell(text: str):
    tokens = READER.parse(f"| a | b |\n|---|---|\n| {escaped(text)} | x |")
    cells = [token for token in tokens if token.type == "td_open"]
    assert len(cells) == 2


def test_addresses_are_not_linked():
    text = escaped("see https://example.org, www.example.org or a@example.org")
    assert not re.search(r"s://|www\.|a@", text)


@given(MARKUP)
def test_code_ends_where_it_ends(text: str):
    tokens = READER.parse(code(text.replace("\r", ""), "toml") + "\n\nafter")
    assert tokens[0].type == "fence"
    assert tokens[2].content == "after"


def test_markdown_is_left_alone():
    assert escaped(Markdown("**bold**")) == "**bold**"


@given(MARKUP)
def test_an_argument_is_one_word(text: str):
    assert shlex.split(argument(text)) == [" ".join(text.split())]
