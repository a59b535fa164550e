import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.templates import Tokenizer
from smidgen.inference.stopping import Ending, GrowingText


def grow(tokenizer: Tokenizer, text: str, stop: tuple[str, ...]) -> tuple[GrowingText, list[int]]:
    """The text after all tokens up to the one that stops it, and how much was settled after each."""
    growing = GrowingText(tokenizer.stream_decoder(), stop)
    settled = []
    for token_id in tokenizer.encode(text):
        growing.push(token_id)
        settled.append(growing.settled)
        if growing.is_stopped:
            break
    return growing, settled


def test_stop_string_across_tokens(loaded):
    assert len(loaded.tokenizer.encode("</score>")) > 3
    growing, settled = grow(loaded.tokenizer, "better </score> and more", ("</score>",))
    assert growing.is_stopped
    assert growing.finish() == "better "
    assert max(settled) == len("better ")


def test_the_earliest_of_several_stops_cuts(loaded):
    growing, _ = grow(loaded.tokenizer, "one <think> two", ("wo", "<think>", " <"))
    assert growing.finish() == "one"


def test_a_beginning_that_comes_to_nothing_is_given_out(loaded):
    growing, settled = grow(loaded.tokenizer, "a </sc", ("</score>",))
    assert settled[-1] == 2
    assert not growing.is_stopped
    assert growing.finish() == "a </sc"


def test_half_characters_appear_at_the_end(loaded):
    growing = GrowingText(loaded.tokenizer.stream_decoder(), ())
    growing.push(loaded.tokenizer.encode("é")[0])
    assert growing.text == ""
    assert growing.finish() == "\ufffd"


@given(text=st.text("ab<é", max_size=20), stop=st.lists(st.text("ab<é", min_size=1, max_size=3), max_size=3))
def test_text_is_cut_before_the_stop_that_is_complete_first(loaded, text, stop):
    growing, settled = grow(loaded.tokenizer, text, tuple(stop))
    whole = growing.finish()
    ends = [text.find(s) + len(s) for s in stop if s in text]
    read = text[: min(ends, default=len(text))]
    assert whole == text[: min([read.find(s) for s in stop if s in read], default=len(text))]
    assert growing.is_stopped == bool(ends)
    assert settled == sorted(settled)
    assert all(n <= len(whole) for n in settled)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("a <s>1</s> b </s>", False, "a <s>1</s>"),
        ("a <t>1</t> b </s>", False, "a <t>1</t>"),
        ("<think>1</s></think> 2</s> 3", False, "<think>1</s></think> 2</s>"),
        ("1</s></think> 2</s> 3", True, "1</s></think> 2</s>"),
        (
            "a <think>x</think><think>1</s></think>b</s>c",
            False,
            "a <think>x</think><think>1</s></think>b</s>",
        ),
        ("1</s> 2", True, None),
        ("<think>1</s> 2", False, None),
        ("no end >", False, None),
        ("", False, None),
    ],
)
def test_an_answer_ends_with_its_closing_tag(loaded, text: str, thinking: bool, answer: str | None):
    tokenizer = loaded.tokenizer
    ending = Ending(tokenizer, ("</s>", "</t>"), thinking=thinking)
    tokens = tokenizer.encode(text)
    complete = [n for n in range(1, len(tokens) + 1) if ending.is_complete(tokens[:n])]
    assert ending.cut(text) == (text if answer is None else answer)
    assert bool(complete) == (answer is not None)
    if answer is not None:
        assert ending.cut(tokenizer.decode(tokens[: complete[0]])) == answer
        assert answer not in tokenizer.decode(tokens[: complete[0] - 1])


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        (r"so \boxed{a{b}c} more}", False, r"so \boxed{a{b}c}"),
        (r"<think>\boxed{1}</think>\boxed{2} x", False, r"<think>\boxed{1}</think>\boxed{2}"),
        (r"\boxed{1}</think> \boxed{2} x", True, r"\boxed{1}</think> \boxed{2}"),
        (r"a</s> \boxed{2}", False, "a</s>"),
        (r"\boxed{a{b} and", False, None),
        ("{no box}", False, None),
    ],
)
def test_an_answer_ends_with_its_box(loaded, text: str, thinking: bool, answer: str | None):
    tokenizer = loaded.tokenizer
    ending = Ending(tokenizer, ("</s>",), boxed=True, thinking=thinking)
    tokens = tokenizer.encode(text)
    complete = [n for n in range(1, len(tokens) + 1) if ending.is_complete(tokens[:n])]
    assert ending.cut(text) == (text if answer is None else answer)
    assert bool(complete) == (answer is not None)
    if answer is not None:
        assert ending.cut(tokenizer.decode(tokens[: complete[0]])) == answer
    assert Ending(tokenizer, ("</s>",), thinking=thinking).cut(r"</think>\boxed{1}") == r"</think>\boxed{1}"
