from pathlib import Path

import pytest

from smidgen.config import LoraConfig, SftConfig
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Message, Sample
from smidgen.errors import DataError
from smidgen.models.load import load
from smidgen.models.lora import add_lora
from smidgen.training.sft import saver, sft_rows

TURNS = (Message("user", "the first"), Message("assistant", "user"), Message("user", "the better"))


@pytest.fixture
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer_dir)


def sample(number: int = 0, target: str | None = "the answer", words: int = 1) -> Sample:
    return Sample(f"s{number}", (Message("user", "better " * words),), target)


def learnt(row, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([int(i) for i in row.token_ids[row.loss_mask]], keep_special=True)


def test_the_answer_and_its_end_are_learnt_and_nothing_else(tokenizer: Tokenizer):
    (row,) = sft_rows([sample()], tokenizer, SftConfig()).rows
    assert learnt(row, tokenizer) == "the answer<|im_end|>"
    context = [int(i) for i in row.token_ids[~row.loss_mask]]
    assert context == tokenizer.render_prompt(sample().messages)


def test_a_conversation_is_learnt_by_its_last_turn(tokenizer: Tokenizer):
    (row,) = sft_rows([Sample("c", TURNS, "answer")], tokenizer, SftConfig()).rows
    assert learnt(row, tokenizer) == "answer<|im_end|>"


def test_every_turn_is_learnt_where_the_template_allows_it(make_tokenizer_dir):
    turn = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    chatml = "{% for m in messages %}" + turn + "{% endfor %}" + opening
    tokenizer = load_tokenizer(make_tokenizer_dir(template=chatml))
    (row,) = sft_rows([Sample("c", TURNS, "answer")], tokenizer, SftConfig(mask="all")).rows
    assert learnt(row, tokenizer) == "user<|im_end|>answer<|im_end|>"


def test_long_rows_lose_context_and_are_counted(tokenizer: Tokenizer):
    samples = [sample(0), sample(1, words=80), sample(2, words=90)]
    rows = sft_rows(samples, tokenizer, SftConfig(max_length=60))
    full = sft_rows(samples, tokenizer, SftConfig(max_length=4096))
    assert (rows.cut_rows, full.cut_rows) == (2, 0)
    assert [len(row.token_ids) for row in rows.rows[1:]] == [60, 60]
    for row in rows.rows:
        assert learnt(row, tokenizer) == "the answer<|im_end|>"


def test_faulty_samples_are_all_counted_and_some_named(tokenizer: Tokenizer):
    samples = [sample(0), *(sample(n, target=None) for n in range(1, 5)), sample(5, target="the " * 80)]
    samples += [sample(6, target=None)]
    with pytest.raises(DataError, match=r"^6 of 7 samples cannot be trained on: ") as caught:
        sft_rows(samples, tokenizer, SftConfig(max_length=40))
    message = str(caught.value)
    assert "sample 's1': it has no target, which is the answer to train on" in message
    assert "sample 's5': a completion has" in message
    assert message.endswith("; and 1 more")
    assert "s6" not in message


def test_no_samples_are_refused(tokenizer: Tokenizer):
    with pytest.raises(DataError, match=r"there are no training samples"):
        sft_rows([], tokenizer, SftConfig())


def test_nothing_learnt_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    rendered = tokenizer.render_conversation([*sample().messages, Message("assistant", "x")])
    nothing = type(rendered)(rendered.token_ids, [False] * len(rendered.token_ids))
    monkeypatch.setattr(tokenizer, "render_conversation", lambda *_, **__: nothing)
    with pytest.raises(DataError, match=r"sample 's0': none of its tokens is in the loss"):
        sft_rows([sample()], tokenizer, SftConfig())


def test_the_best_weights_are_a_model_or_an_adapter(tiny_model_dir: Path, tmp_path: Path):
    loaded = load(str(tiny_model_dir))
    saver(loaded, SftConfig())(tmp_path / "model")
    load(str(tmp_path / "model"))
    config = SftConfig(lora=LoraConfig(rank=2))
    add_lora(loaded.model, LoraConfig(rank=2), seed=0)
    saver(loaded, config)(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapters.safetensors",
    ]
