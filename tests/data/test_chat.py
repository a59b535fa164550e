import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from smidgen.data.templates import TEXT, load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ModelError

SYSTEM, QUESTION, ANSWER = (
    Message("system", "be brief"),
    Message("user", "Which?"),
    Message("assistant", "this"),
)
TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
PARTS = TURN.replace(" + m.content +", " }}{% for part in m.content %}{{ part.text }}{% endfor %}{{")
Make = Callable[..., Path]


def loop(turn: str = TURN, before: str = "") -> str:
    return f"{before}{{% for m in messages %}}{turn}{{% endfor %}}{OPENING}"


def prompt(path: Path, *messages: Message) -> str:
    tokenizer = load_tokenizer(path)
    return tokenizer.decode(tokenizer.render_prompt(messages), keep_special=True)


def rendered(*messages: Message) -> str:
    turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return f"{turns}<|im_start|>assistant\n"


def test_a_system_message_opens_the_first_question_where_there_is_no_such_role(
    make_tokenizer_dir: Make,
) -> None:
    for before in (NO_SYSTEM, ALTERNATING, NO_SYSTEM + ALTERNATING):
        path = make_tokenizer_dir(loop(before=before))
        with pytest.warns(
            UserWarning, match="has no system role, so the system message opens the first user mess"
        ):
            found = prompt(path, SYSTEM, QUESTION, ANSWER, QUESTION)
        assert found == rendered(Message("user", "be brief\n\nWhich?"), ANSWER, QUESTION)


def test_a_template_that_leaves_the_system_message_out_without_a_word(make_tokenizer_dir: Make) -> None:
    path = make_tokenizer_dir(loop("{% if m.role != 'system' %}" + TURN + "{% endif %}"))
    with pytest.warns(UserWarning, match="has no system role"):
        assert prompt(path, SYSTEM, QUESTION) == rendered(Message("user", "be brief\n\nWhich?"))


def test_messages_of_one_role_are_joined_where_roles_must_alternate(make_tokenizer_dir: Make) -> None:
    path = make_tokenizer_dir(loop(before=ALTERNATING))
    with pytest.warns(
        UserWarning, match="requires user and assistant to alternate, so consecutive messages of"
    ):
        found = prompt(path, QUESTION, Message("user", ""), Message("user", "Why?"), ANSWER, QUESTION)
    assert found == rendered(Message("user", "Which?\n\nWhy?"), ANSWER, QUESTION)


def test_messages_that_a_template_takes_are_kept_and_changes_are_said_once(make_tokenizer_dir: Make) -> None:
    assert prompt(make_tokenizer_dir(loop()), SYSTEM, QUESTION, QUESTION) == rendered(
        SYSTEM, QUESTION, QUESTION
    )
    tokenizer = load_tokenizer(make_tokenizer_dir(loop(before=NO_SYSTEM)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            tokenizer.render_prompt([SYSTEM, QUESTION])
    assert len(said) == 1


@pytest.mark.parametrize("before", [NO_SYSTEM, ALTERNATING])
@pytest.mark.parametrize("mask", ["last", "all"])
@pytest.mark.filterwarnings("ignore:the chat template of")
def test_what_is_trained_is_what_is_served(make_tokenizer_dir: Make, before: str, mask: str) -> None:
    tokenizer = load_tokenizer(make_tokenizer_dir(loop(before=before)))
    turns = [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER]
    row = tokenizer.render_conversation(turns, mask=mask)
    served = tokenizer.render_prompt(turns[:-1])
    assert row.token_ids[: len(served)] == served
    assert tokenizer.decode(row.token_ids[len(served) :], keep_special=True) == "this<|im_end|>"


def test_what_no_form_satisfies_is_refused_with_the_templates_own_words(make_tokenizer_dir: Make) -> None:
    path = make_tokenizer_dir(loop(before=ALTERNATING))
    with pytest.raises(ModelError, match="rejected the messages: roles must alternate"):
        prompt(path, Message("assistant", "hello"), QUESTION)


def test_a_template_that_reads_parts_is_given_parts(make_tokenizer_dir: Make) -> None:
    path = make_tokenizer_dir(loop(PARTS))
    messages = (SYSTEM, QUESTION, ANSWER, Message("user", "?!"))
    assert prompt(path, *messages) == rendered(*messages)
    tokenizer = load_tokenizer(path)
    assert tokenizer.eos_token_ids == {0, 2}
    row = tokenizer.render_conversation(messages[:3], mask="all")
    assert tokenizer.decode(row.token_ids, keep_special=True) == rendered(*messages[:2]) + "this<|im_end|>"
    spelt = Message("user", "<|im_end|>")
    assert tokenizer.render_prompt([spelt]).count(2) == 1
    assert prompt(path, spelt) == rendered(spelt)


@pytest.mark.parametrize(
    "turn",
    [
        "{{ m.text }}",
        TURN.replace("m.content", "m.content[:4]"),
        "{% if loop.first %}" + TURN + "{% endif %}",
        "{% for part in m.content %}{{ part.words }}{% endfor %}",
        "",
    ],
)
def test_a_prompt_without_its_messages_is_refused(make_tokenizer_dir: Make, turn: str) -> None:
    path = make_tokenizer_dir(loop(turn))
    with pytest.raises(
        ModelError, match="renders prompts without the text of the messages; use a checkpoint wi"
    ):
        prompt(
            path, Message("user", "What is the capital of France?"), ANSWER, Message("user", "Where is Lyon?")
        )


@pytest.mark.parametrize(
    ("content", "turn"),
    [
        ("  Which?\n", "m.content | trim"),
        ("Which one? /no_think", "m.content | replace('/no_think', '')"),
        ('Say "yes" – naïve\nor <no>', "m.content | tojson"),
        ("one\n\n two", "m.content.split() | join(' ')"),
    ],
)
def test_what_templates_change_in_messages_is_not_lost(
    make_tokenizer_dir: Make, content: str, turn: str
) -> None:
    path = make_tokenizer_dir(loop(TURN.replace("m.content", f"({turn})")))
    assert prompt(path, SYSTEM, Message("user", content)).count("<|im_start|>") == 3


def test_thoughts_of_earlier_turns_may_be_left_out(make_tokenizer_dir: Make) -> None:
    path = make_tokenizer_dir(loop(TURN.replace("m.content", "m.content.split('</think>')[-1]")))
    thought = Message("assistant", "<think>\nlet me see\n</think>\n\nthis")
    assert "let me see" not in prompt(path, QUESTION, thought, QUESTION)
    cut = make_tokenizer_dir(loop(TURN.replace("m.content", "m.content.split('<think>')[0]")))
    assert "let me" not in prompt(cut, QUESTION, Message("assistant", "<think>let me see"), QUESTION)


@pytest.mark.parametrize("suffix", ["", " <|im_end|>"])
@pytest.mark.parametrize("template", [loop(), "{{ bos_token }}" + loop()])
def test_a_token_that_begins_every_text_stands_there_once(
    make_tokenizer_dir: Make, template: str, suffix: str
):
    path = make_tokenizer_dir(template)
    codec = Tokenizer.from_file(str(path / "tokenizer.json"))
    codec.post_processor = processors.TemplateProcessing(
        f"<|endoftext|> $A{suffix}", None, [("<|endoftext|>", 0), ("<|im_end|>", 2)]
    )
    codec.save(str(path / "tokenizer.json"))
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.opening == [0]
    served = tokenizer.render_prompt([QUESTION])
    assert tokenizer.decode(served, keep_special=True) == "<|endoftext|>" + rendered(QUESTION)
    row = tokenizer.render_conversation([QUESTION, ANSWER, QUESTION, ANSWER], mask="all")
    assert row.token_ids[: len(served)] == served and row.token_ids.count(0) == 1 and not row.loss_mask[0]
    for text in ("Which?", "<|endoftext|>Which?"):
        assert tokenizer.render_prompt([Message(TEXT, text)]) == [0, *tokenizer.encode("Which?")]
