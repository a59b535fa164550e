import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from smidgen.data.templates import TEXT, Rendered, Tokenizer, fit, load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import DataError, ModelError
from smidgen.training.pretrain import fast_encoder

QUESTION = Message("user", "Which answer is better?")
ANSWER = Message("assistant", "the first — 第一 🙂")
CONVERSATION = (
    Message("system", "be brief"),
    QUESTION,
    ANSWER,
    QUESTION,
    Message("assistant", "\nthe better"),
)
CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer_dir)


@pytest.fixture
def chatml(make_tokenizer_dir) -> Tokenizer:
    return load_tokenizer(make_tokenizer_dir(CHATML))


def learnt(tokenizer: Tokenizer, rendered: Rendered) -> str:
    """The learnt tokens as text, runs joined by |."""
    runs, previous = [], False
    for token, is_learnt in zip(rendered.token_ids, rendered.loss_mask, strict=True):
        if is_learnt:
            runs = runs if previous else [*runs, []]
            runs[-1].append(token)
        previous = is_learnt
    return "|".join(tokenizer.decode(run, keep_special=True) for run in runs)


@pytest.mark.parametrize("thinking", [False, True])
def test_prompt_is_the_checkpoints_own_template(tokenizer, tiny_tokenizer_dir, thinking):
    reference = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    turns = [{"role": m.role, "content": m.content} for m in CONVERSATION[:-1]]
    expected = reference.apply_chat_template(
        turns, add_generation_prompt=True, enable_thinking=thinking, return_dict=False
    )
    assert tokenizer.render_prompt(CONVERSATION[:-1], thinking=thinking) == expected
    ending = tokenizer.decode(expected, keep_special=True).rpartition("assistant\n")[2]
    assert ending == ("" if thinking else "<think>\n\n</think>\n\n")


@pytest.mark.parametrize("thinking", [False, True])
@given(content=st.text(st.characters(codec="utf-8"), max_size=20), turns=st.integers(1, 3))
def test_what_is_trained_is_what_is_served(tokenizer, thinking, content, turns):
    messages = [QUESTION, ANSWER] * (turns - 1) + [QUESTION, Message("assistant", content)]
    rendered = tokenizer.render_conversation(messages, thinking=thinking)
    prompt = tokenizer.render_prompt(messages[:-1], thinking=thinking)
    assert rendered.token_ids[: len(prompt)] == prompt
    answer = rendered.token_ids[len(prompt) :]
    assert answer == [*tokenizer.encode(content), *tokenizer.encode("<|im_end|>")]
    assert rendered.loss_mask == [False] * len(prompt) + [True] * len(answer)


def test_mask_last_learns_only_the_last_turn(tokenizer):
    assert learnt(tokenizer, tokenizer.render_conversation(CONVERSATION)) == "\nthe better<|im_end|>"


def test_mask_all_learns_every_assistant_turn(chatml):
    rendered = chatml.render_conversation(CONVERSATION, mask="all")
    assert learnt(chatml, rendered) == "the first — 第一 🙂<|im_end|>|\nthe better<|im_end|>"
    last = chatml.render_conversation(CONVERSATION, mask="last")
    assert chatml.decode(rendered.token_ids, keep_special=True) == chatml.decode(
        last.token_ids, keep_special=True
    )


def test_mask_all_of_one_turn_is_mask_last(tokenizer):
    turn = CONVERSATION[:3]
    assert tokenizer.render_conversation(turn, mask="all") == tokenizer.render_conversation(turn, mask="last")


def test_mask_all_refuses_a_template_that_rewrites_earlier_turns(tokenizer):
    with pytest.raises(ModelError, match=r'renders earlier assistant turns differently.*use mask = "last"'):
        tokenizer.render_conversation(CONVERSATION, mask="all")


@pytest.mark.parametrize(
    ("messages", "fault"),
    [((), "this one is empty"), ((QUESTION,), "this one ends with 'user'")],
)
def test_conversation_must_end_with_the_assistant(tokenizer, messages, fault):
    with pytest.raises(DataError, match=f"must end with an assistant message, but {fault}"):
        tokenizer.render_conversation(messages)


def test_messages_are_checked(tokenizer):
    with pytest.raises(DataError, match="no messages to render; expected at least one"):
        tokenizer.render_prompt(())
    with pytest.raises(DataError, match="unknown role 'human'; expected one of system, user, assistant"):
        tokenizer.render_prompt((Message("human", "hello"),))


def test_thinking_needs_a_switch(chatml):
    assert chatml.render_prompt([QUESTION], thinking=False)
    with pytest.raises(
        ModelError, match=r"thinking is enabled, but the chat template of .* has no enable_th"
    ):
        chatml.render_prompt([QUESTION], thinking=True)


def test_missing_template(make_tokenizer_dir):
    tokenizer = load_tokenizer(make_tokenizer_dir(None))
    assert not tokenizer.has_template
    assert tokenizer.eos_token_ids == {0, 2}
    with pytest.raises(
        ModelError, match="has no chat template, so messages cannot be rendered; use an instru"
    ):
        tokenizer.render_prompt([QUESTION])


def test_template_that_refuses_the_messages(make_tokenizer_dir):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer = load_tokenizer(make_tokenizer_dir(template))
    with pytest.raises(ModelError, match="rejected the messages: no system role"):
        tokenizer.render_prompt(CONVERSATION[:2])


def test_completions_must_end(make_tokenizer_dir):
    bare = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"
    path = make_tokenizer_dir(bare, eos=None)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": bare}))
    tokenizer = load_tokenizer(path)
    with pytest.raises(ModelError, match=r"no special token after an assistant turn .* set eos_token in"):
        tokenizer.render_conversation([QUESTION, ANSWER])
    path = make_tokenizer_dir(bare, eos="<|endoftext|>")
    rendered = load_tokenizer(path).render_conversation([QUESTION, ANSWER])
    assert rendered.token_ids[-1] == 0


def test_end_tokens_are_the_union_of_all_sources(make_tokenizer_dir):
    path = make_tokenizer_dir(eos="<|endoftext|>")
    assert load_tokenizer(path).eos_token_ids == {0, 2}
    (path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    (path / "config.json").write_text('{"model_type": "qwen3", "eos_token_id": 9}')
    assert load_tokenizer(path).eos_token_ids == {0, 2, 7, 9}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"eos_token_id": "<s>"}', "is '<s>'; expected a token id or a list of token ids"),
        ('{"eos_token_id": [true]}', r"is \[True\]; expected a token id"),
        ("{", "is not a readable JSON object"),
        ("[]", "is not a readable JSON object"),
    ],
)
def test_unreadable_end_tokens(make_tokenizer_dir, content, fault):
    path = make_tokenizer_dir()
    (path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"generation_config\.json {fault}"):
        _ = load_tokenizer(path).eos_token_ids


def test_missing_tokenizer(tmp_path):
    with pytest.raises(ModelError, match=r"there is no tokenizer in .*; expected tokenizer.json and"):
        load_tokenizer(tmp_path)


def test_broken_tokenizer(make_tokenizer_dir):
    path = make_tokenizer_dir()
    (path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read: "):
        load_tokenizer(path)


@given(text=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=40))
def test_streaming_equals_decoding(tokenizer, text):
    token_ids = tokenizer.encode(text)
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in token_ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(token_ids)


@given(st.lists(st.integers(0, 295), max_size=30))
def test_streaming_any_tokens_equals_decoding(tokenizer, token_ids):
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in token_ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(token_ids)


def test_streaming_holds_back_half_characters(tokenizer):
    decoder = tokenizer.stream_decoder()
    token_ids = tokenizer.encode("é🙂")
    assert len(token_ids) == 6
    assert [decoder.push(token) for token in token_ids] == ["", "é", "", "", "", "🙂"]
    assert decoder.push(token_ids[-1]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


@given(
    prompt=st.integers(1, 20), answer=st.integers(1, 20), earlier=st.booleans(), max_length=st.integers(2, 45)
)
def test_fit_cuts_the_prompt_and_never_the_answer(prompt, answer, earlier, max_length):
    mask = [earlier] * (prompt // 2) + [False] * (prompt - prompt // 2) + [True] * answer
    rendered = Rendered(list(range(len(mask))), mask)
    if answer + 1 > max_length and prompt + answer > max_length:
        with pytest.raises(
            DataError, match=f"a completion has {answer} tokens .*{max_length}.* to {answer + 1} or"
        ):
            fit(rendered, max_length)
        return
    fitted, cut = fit(rendered, max_length)
    assert len(fitted.token_ids) == len(fitted.loss_mask) == min(len(mask), max_length)
    assert (fitted.token_ids, fitted.loss_mask) == (rendered.token_ids[cut:], rendered.loss_mask[cut:])


def test_slow_tokenizer_is_refused(make_tokenizer_dir, monkeypatch):
    path = make_tokenizer_dir()
    slow = SimpleNamespace(is_fast=False)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: slow)
    with pytest.raises(ModelError, match=r"has no tokenizer.json; convert it with transformers and save it"):
        load_tokenizer(path)


def test_an_answer_that_is_begun_is_gone_on_with(tokenizer):
    prompt = tokenizer.render_prompt([QUESTION])
    begun = tokenizer.render_prompt([QUESTION, Message("assistant", "10 ")])
    assert begun == [*prompt, *tokenizer.encode("10 ")]


def test_a_whole_prompt_that_is_empty(make_tokenizer_dir):
    with pytest.raises(DataError, match="the prompt is empty; expected at least one character"):
        load_tokenizer(make_tokenizer_dir(template=None)).render_prompt([Message(TEXT, "")])


STATE = {
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|endoftext|>",
    },
}  # fmt: skip


def test_what_a_tokenizer_file_remembers_of_its_last_use_changes_nothing(make_tokenizer_dir):
    path = make_tokenizer_dir(CHATML)
    expected = load_tokenizer(path)
    encode, _ = fast_encoder(path / "tokenizer.json")
    texts = ["the better answer is the first", "user"]
    wanted = [expected.encode(text) for text in texts]
    assert encode(texts) == wanted
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8")) | STATE
    content["model"]["dropout"] = 0.9
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    found = load_tokenizer(path)
    assert [found.encode(text) for text in texts] == wanted
    assert found.render_prompt(CONVERSATION[:-1]) == expected.render_prompt(CONVERSATION[:-1])
    assert found.render_conversation(CONVERSATION) == expected.render_conversation(CONVERSATION)
    assert found.to_json() == expected.to_json()
    assert fast_encoder(path / "tokenizer.json")[0](texts) == wanted


@given(st.text(min_size=1), st.text())
def test_what_continues_raw_text_is_part_of_it(tokenizer: Tokenizer, before: str, after: str):
    begun, tail = tokenizer.encode(before), tokenizer.encode_after((Message(TEXT, before),), after)
    whole = tokenizer.encode(before + after)
    assert begun + tail == whole or (whole[: len(begun)] != begun and tail == tokenizer.encode(after))
    assert tokenizer.encode_after((QUESTION,), after) == tokenizer.encode(after)
