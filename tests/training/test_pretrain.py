from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.config import PretrainConfig
from smidgen.errors import DataError, ModelError
from smidgen.training.pretrain import PackedBatches, TokenStream, fast_encoder, num_steps, packed_rows

SEPARATOR = 0


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def source(texts: list[str]) -> Callable[[int], Iterator[str]]:
    return lambda start: iter(texts[start:])


def flat(texts: list[str], passes: int) -> list[int]:
    """The whole stream."""
    return [token for ids in encode(texts) for token in [*ids, SEPARATOR]] * passes


documents = st.lists(st.text("abcdefgh", max_size=12), min_size=1, max_size=9)


@given(documents, st.lists(st.integers(2, 17), min_size=1, max_size=12))
def test_each_token_of_the_stream_is_a_target_once(texts: list[str], counts: list[int]):
    stream = TokenStream(source(texts), encode, SEPARATOR)
    parts = [stream.take(count) for count in counts]
    targets = np.concatenate([parts[0][:1]] + [part[1:] for part in parts])
    wanted = flat(texts, passes=targets.size)
    assert targets.tolist() == wanted[: targets.size]
    for before, after in pairwise(parts):
        assert before[-1] == after[0]


@given(documents, st.integers(0, 30), st.integers(2, 9))
def test_a_stream_goes_on_from_any_position(texts: list[str], taken: int, length: int):
    first = TokenStream(source(texts), encode, SEPARATOR)
    for _ in range(taken):
        first.take(length)
    second = TokenStream(source(texts), encode, SEPARATOR)
    second.restore(first.state())
    for _ in range(5):
        np.testing.assert_array_equal(first.take(length), second.take(length))
    assert first.state() == second.state()


def test_many_documents_are_encoded_in_few_calls():
    calls = []

    def counting(texts: list[str]) -> list[list[int]]:
        calls.append(len(texts))
        return encode(texts)

    TokenStream(source(["abc"] * 1000), counting, SEPARATOR).take(2000)
    assert calls == [256, 256]


def test_batches_are_full_and_every_token_is_learnt():
    config = PretrainConfig(
        method="pretrain", batch_size=3, gradient_accumulation=2, max_length=32, total_tokens=1000
    )
    batches = PackedBatches(source(["abcdef"] * 50), encode, SEPARATOR, config)
    assert batches.num_steps == num_steps(config) == 6  # 192 tokens a step
    step = batches.next_step()
    assert [batch.inputs.shape for batch in step] == [(3, 32)] * 2
    assert [batch.trained_tokens for batch in step] == [96] * 2
    stream = flat(["abcdef"] * 50, passes=1)
    assert step[0].inputs.reshape(-1).tolist() == stream[:96]
    assert step[1].targets.tolist() == stream[97:193]
    position = batches.state()
    after = batches.next_step()
    batches.restore(position)
    np.testing.assert_array_equal(batches.next_step()[1].targets, after[1].targets)
    assert batches.epoch() == 1.0  # 350 tokens have ended


def test_a_validation_set_is_the_start_of_its_stream():
    rows = packed_rows(source(["abc", "de"]), encode, SEPARATOR, count=2, max_length=8)
    stream = flat(["abc", "de"], passes=3)
    assert [row.token_ids.tolist() for row in rows] == [stream[:9], stream[8:17]]
    assert all(row.loss_mask.all() for row in rows)


def test_an_endless_source_is_read_only_as_far_as_needed():
    def endless(start: int) -> Iterator[str]:
        return (str(number) for number in islice(iter(range(10**9)), start, None))

    stream = TokenStream(endless, encode, SEPARATOR)
    stream.take(100)
    assert stream.passes == 0


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match=r"the stream has no documents; pretraining needs at least one"):
        TokenStream(source([]), encode, SEPARATOR).take(3)


def test_the_encoder_knows_the_separator(tiny_tokenizer_dir: Path, tmp_path: Path):
    encode_batch, separator = fast_encoder(tiny_tokenizer_dir / "tokenizer.json")
    assert separator == 0
    (ids,) = encode_batch(["the first<|endoftext|>"])
    assert ids[-1] == 0
    with pytest.raises(
        ModelError, match=r"tokenizer.json has no token '<\|eos\|>', which separates documents"
    ):
        fast_encoder(tiny_tokenizer_dir / "tokenizer.json", separator="<|eos|>")
    with pytest.raises(ModelError, match=r"absent.json is not a readable tokenizer.json"):
        fast_encoder(tmp_path / "absent.json")
