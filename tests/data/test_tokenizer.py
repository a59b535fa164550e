from itertools import islice

import pytest

from smidgen.data.corpus import documents, tokenizer_documents
from smidgen.data.templates import load_tokenizer
from smidgen.data.tokenizer import END_OF_TEXT, TURN_END, chat_text, save_tokenizer, train_tokenizer
from smidgen.data.types import Message

CONVERSATIONS = [
    ["hello", "hi"],
    ["What is 2 + 3?", "5", "And 4 + 4?", "8"],
    ["a", "<think>\nwait\n</think>\n\nb"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(tokenizer_documents(0, 400), 700), path, context=512)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def messages(turns, system=None):
    roles = ("user", "assistant")
    start = [Message("system", system)] if system else []
    return [*start, *(Message(roles[index % 2], turn) for index, turn in enumerate(turns))]


@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize("system", [None, "Be short."])
def test_the_corpus_writes_chats_as_the_template_does(tokenizer, turns, system):
    from transformers import AutoTokenizer

    asked = messages(turns, system)
    plain = [{"role": message.role, "content": message.content} for message in asked]
    reference = AutoTokenizer.from_pretrained(tokenizer.path).apply_chat_template(plain, tokenize=False)
    assert chat_text(asked) == reference


@pytest.mark.parametrize("turns", CONVERSATIONS[:2])
def test_a_training_row_is_what_the_corpus_taught(tokenizer, turns):
    row = tokenizer.render_conversation(messages(turns))
    assert tokenizer.decode(row.token_ids, keep_special=True) + "\n" == chat_text(messages(turns))


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer.encode("1234567890")) == 10


def test_text_survives(tokenizer):
    for text in (*islice(documents(9), 30), "naïve 東京 🙂 \\boxed{1, 2}\n\n  x"):
        assert tokenizer.decode(tokenizer.encode(text), keep_special=True) == text


def test_size_and_special_tokens(tokenizer):
    assert tokenizer.vocab_size == 700
    assert [len(tokenizer.encode(token)) for token in (TURN_END, END_OF_TEXT, "<think>", "</think>")] == [
        1
    ] * 4
    assert tokenizer.eos_token_ids == {tokenizer.encode(text)[0] for text in (TURN_END, END_OF_TEXT)}


def test_the_same_documents_make_the_same_tokenizer(folder, tmp_path):
    save_tokenizer(train_tokenizer(tokenizer_documents(0, 400), 700), tmp_path, context=512)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()
