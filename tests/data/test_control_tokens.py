import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import write_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from smidgen.data.control_tokens import WORD_JOINER, ControlTokens, defused, looks_like_control
from smidgen.data.templates import TEXT, load_tokenizer
from smidgen.data.types import Message

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TRIMMED = CHATML.replace("m.content", "(m.content | trim).split('</think>')[-1]")
spelling = st.lists(
    st.sampled_from(
        [*SPECIAL, "<|im_", "end|>", "the better", " ", "\n", "\U000f0000", "1;", "<think>", "é"]
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module", params=[CHATML, TRIMMED], ids=["as it stands", "trimmed and split"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param))


def unigram() -> Tokenizer:
    """SentencePiece's kind: control tokens are pieces of the model, which finds them in any text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0)]
    pieces += [(character, -4.0) for character in "<s/>abc"]
    codec = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    codec.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    codec.decoder = decoders.Metaspace(prepend_scheme="first")
    codec.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return codec


def words() -> Tokenizer:
    """A token that takes the blanks before it along, and one that is looked for in normalised text."""
    vocabulary = {text: i for i, text in enumerate(["<unk>", "[MASK]", "[end]", *"[]abcdekmns", "b [a"])}
    codec = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    codec.normalizer = normalizers.Lowercase()
    codec.add_special_tokens(
        [AddedToken("[MASK]", lstrip=True, normalized=False), AddedToken("[end]", normalized=True)]
    )
    return codec


def controls(codec: Tokenizer) -> ControlTokens:
    added = codec.get_added_tokens_decoder().items()
    return ControlTokens(codec, {token.content: i for i, token in added if token.special})


@given(spelling, spelling, spelling)
def test_only_the_template_writes_control_tokens(tokenizer, system, user, answer) -> None:
    messages = [Message("system", system), Message("user", user)]
    special = {i for text, i in tokenizer.vocabulary.items() if text in SPECIAL}
    written = [
        i for i in tokenizer.render_prompt([Message("system", "x"), Message("user", "x")]) if i in special
    ]
    assert [i for i in tokenizer.render_prompt(messages) if i in special] == written
    begun = tokenizer.render_prompt([*messages, Message("assistant", answer)])
    assert [i for i in begun if i in special] == written
    rendered = tokenizer.render_conversation([*messages, Message("assistant", answer)])
    prompt = tokenizer.render_prompt(messages)
    assert rendered.token_ids[: len(prompt)] == prompt  # trained as served
    learnt = rendered.token_ids[len(prompt) : -1]
    assert special.isdisjoint(learnt) and tokenizer.decode(learnt, keep_special=True) == answer
    again = tokenizer.render_conversation(
        [Message("user", answer), Message("assistant", answer), *messages[1:], Message("assistant", "x")]
    )
    assert sum(i in special for i in again.token_ids) == 2 * 3 + 1 + 1


@given(
    st.lists(st.sampled_from(["the", " ", "<|im_", "end|>", "\n", "é", "<think>", "\U000f0000"]))
    .map("".join)
    .filter(lambda text: not any(token in text for token in SPECIAL))
)
def test_prompts_that_spell_none_have_the_ids_of_their_text(tokenizer, content: str) -> None:
    ids = tokenizer.render_prompt([Message("user", "a" + content + "b")])
    assert ids == tokenizer.encode(tokenizer.decode(ids, keep_special=True))


def test_a_spelling_merges_with_the_text_around_it_as_any_other(tokenizer) -> None:
    codec = Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    codec.encode_special_tokens = True
    content = "the better<|im_end|>the first <|im_start|>"
    head, _, tail = tokenizer.decode(
        tokenizer.render_prompt([Message("user", "X")]), keep_special=True
    ).partition("X")
    expected = [*tokenizer.encode(head), *codec.encode(content, add_special_tokens=False).ids]
    ids = tokenizer.render_prompt([Message("user", content)])
    assert ids == expected + tokenizer.encode(tail)


def test_every_turn_can_be_learnt_though_it_spells_one(make_tokenizer_dir: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(make_tokenizer_dir(CHATML))
    turns = [Message("user", "<|im_start|>"), Message("assistant", "a<|im_end|>")] * 2
    rendered = tokenizer.render_conversation(turns, mask="all")
    assert sum(token == 2 for token in rendered.token_ids) == 4
    assert (
        tokenizer.decode(
            [i for i, learnt in zip(rendered.token_ids, rendered.loss_mask, strict=True) if learnt],
            keep_special=True,
        )
        == "a<|im_end|><|im_end|>" * 2
    )


@pytest.mark.parametrize(
    ("codec", "text", "trusted"),
    [
        (unigram(), "a</s>b<s>", "<s>"),
        (unigram(), "</s>", " <s> a"),
        (words(), "a [MASK]b", "b [MASK] a"),
        (words(), "a[End]b", "[end]"),
    ],
)
def test_no_kind_of_tokenizer_takes_text_for_a_control_token(
    codec: Tokenizer, text: str, trusted: str
) -> None:
    known = controls(codec)
    mark = known.mark_for([text])
    assert mark
    ids = known.encode(known.hide(text, mark), mark)
    special = {i for i, token in codec.get_added_tokens_decoder().items() if token.special}
    assert special.isdisjoint(ids) and len(ids) > 3
    assert known.encode(trusted, mark) == codec.encode(trusted, add_special_tokens=False).ids


def test_a_mark_is_in_no_text(tokenizer) -> None:
    known = tokenizer._controls
    assert known.mark_for(["<|im_end|>"]) == "\U000f0000"
    assert known.mark_for(["<|im_end|>", "\U000f0000"], template="\U000f0001") == "\U000f0002"
    assert known.mark_for(["\U000f0000"]) == ""


def test_ends_that_are_not_marked_as_special_are_control_tokens_too(make_tokenizer_dir) -> None:
    path = make_tokenizer_dir(CHATML)
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = False
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.render_prompt([Message("user", "<|im_end|>")]).count(2) == 1
    plain = tokenizer.render_prompt([Message("user", "<think>")])
    assert plain.count(tokenizer.vocabulary["<think>"]) == 1  # a tag, which messages may write


def test_a_whole_prompt_is_taken_literally(tokenizer) -> None:
    assert tokenizer.render_prompt([Message(TEXT, "<|im_start|>user\n")])[0] == 1


@pytest.mark.parametrize("text", [*SPECIAL, "</s>", "[INST]", "<｜User｜>", "<|start_header_id|>"])
def test_servers_are_sent_no_control_tokens(text: str) -> None:
    assert looks_like_control(text)
    with pytest.warns(UserWarning, match=r"contain control tokens .* with a word joiner \(U\+2060\)"):
        found = defused(f"a{text}b{text}")
    assert text not in found and found.replace(WORD_JOINER, "") == f"a{text}b{text}"
    assert found.count(WORD_JOINER) == 2


@pytest.mark.parametrize("text", ["a <| b |> c", "x | y", "<think>", "<b>", "[1]", "|| <>"])
def test_other_text_is_sent_as_it_is(text: str) -> None:
    assert defused(text) == text
