from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from smidgen.backend import nn
from smidgen.config import PhaseConfig, PretrainConfig
from smidgen.data.documents import Documents, Placed
from smidgen.errors import DataError, ModelError
from smidgen.files import read_jsonl
from smidgen.training.batches import TrainRow, fixed_batches, pad
from smidgen.training.loop import Output, train, validate
from smidgen.training.losses import trained_token_losses
from smidgen.training.mixing import mix_of
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.pretrain import (
    PackedBatches,
    TextSource,
    TokenStream,
    fast_encoder,
    num_steps,
    validation_rows,
    weighted,
)

SEPARATOR = 0


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) - 96 for letter in text] for text in texts]


def source(texts: list[str], step: int = 10) -> Documents:
    """Documents whose places are multiples of `step`, as those of a file are not their numbers."""
    return lambda place: (Placed(n * step, texts[n]) for n in range(place // step, len(texts)))


def flat(texts: list[str], passes: int) -> list[int]:
    """The whole stream."""
    return [token for ids in encode(texts) for token in [*ids, SEPARATOR]] * passes


def settings(**changes: Any) -> PretrainConfig:
    return PretrainConfig(
        **{"method": "pretrain", "batch_size": 3, "max_length": 32, "total_tokens": 1000} | changes
    )


def batches_of(config: PretrainConfig, *sources: TextSource) -> PackedBatches:
    names = [one.name for one in sources]
    phases = config.phases or (PhaseConfig(tokens=config.tokens, weights=dict.fromkeys(names, 1.0)),)
    mix = mix_of(phases, names, max_length=config.max_length, seed=config.seed)
    return PackedBatches(sources, mix, encode, SEPARATOR, config)


documents = st.lists(st.text("abcdefgh", max_size=12), min_size=1, max_size=9)


@given(documents, st.lists(st.integers(2, 17), min_size=1, max_size=12))
def test_each_token_of_the_stream_is_a_target_once(texts: list[str], counts: list[int]):
    stream = TokenStream(source(texts), encode, SEPARATOR)
    parts = [stream.take(count).token_ids for count in counts]
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
        for mine, other in zip(first.take(length), second.take(length), strict=True):
            np.testing.assert_array_equal(mine, other)
    assert first.state() == second.state()


def test_many_documents_are_encoded_in_few_calls():
    calls = []

    def counting(texts: list[str]) -> list[list[int]]:
        calls.append(len(texts))
        return encode(texts)

    TokenStream(source(["abc"] * 1000), counting, SEPARATOR).take(2000)
    assert calls == [256, 256]


@given(documents, st.integers(2, 40))
def test_tokens_know_their_document(texts: list[str], count: int):
    ids, segments = TokenStream(source(texts), encode, SEPARATOR).take(count)
    assert segments[0] == 0
    begins = np.flatnonzero(np.diff(segments)) + 1
    np.testing.assert_array_equal(begins, np.flatnonzero(ids[:-1] == SEPARATOR) + 1)


@pytest.mark.parametrize("across", [True, False])
def test_batches_are_full_and_every_token_is_learnt(across: bool):
    config = settings(gradient_accumulation=2, attend_across_documents=across)
    batches = batches_of(config, TextSource("", source(["abcdef"] * 50), 50))
    assert batches.num_steps == num_steps(config) == 6  # 192 tokens a step
    step = batches.next_step()
    assert [batch.inputs.shape for batch in step] == [(3, 32)] * 2
    stream = flat(["abcdef"] * 50, passes=1)
    assert step[0].inputs.reshape(-1).tolist() == stream[:96]
    learnt = [
        target
        for target, before in zip(stream[97:193], stream[96:192], strict=True)
        if across or before != SEPARATOR
    ]
    assert step[1].targets[: step[1].trained_tokens].tolist() == learnt
    assert (step[1].segment_ids is None) == across
    position = batches.state()
    after = batches.next_step()
    batches.restore(position)
    np.testing.assert_array_equal(batches.next_step()[1].targets, after[1].targets)
    assert batches.epoch() == pytest.approx(1 + 4 / 50)  # 384 of 350 tokens
    assert batches.figures() == {}


PHASES = (
    PhaseConfig(tokens=400, weights={"a": 1.0, "b": 1.0}),
    PhaseConfig(tokens=600, weights={"b": 1.0, "c": 2.0}),
)


def three(config: PretrainConfig) -> PackedBatches:
    texts = {"a": ["abc", "de"], "b": ["fghijk" * 30, "l"], "c": ["mn", "opq", "r"] * 3}
    return batches_of(config, *(TextSource(name, source(own), len(own)) for name, own in texts.items()))


def test_a_row_is_of_one_source_and_a_phase_has_its_own():
    config = settings(phases=PHASES, total_tokens=None, batch_size=1, max_length=20)
    batches, letters = three(config), {"a": "abcde", "b": "fghijkl", "c": "mnopqr"}
    seen: list[str] = []
    for _ in range(batches.num_steps):
        (batch,) = batches.next_step()
        (name,) = batch.sources
        assert {*batch.inputs.reshape(-1)[: batch.tokens].tolist()} <= {SEPARATOR} | set(
            encode([letters[name]])[0]
        )
        assert (batch.source_ids == 0).all()
        seen.append(name)
    assert set(seen[:20]) == {"a", "b"} and set(seen[20:]) == {"b", "c"}
    figures = batches.figures()
    assert {name: figures[f"tokens/{name}"] for name in "abc"} == {n: 20 * seen.count(n) for n in "abc"}
    assert figures["epoch/a"] == pytest.approx(20 * seen.count("a") / 7, abs=0.5)  # 7 tokens each time
    assert batches.epoch() == max(figures[f"epoch/{name}"] for name in "abc")


@given(st.integers(0, 20))
def test_a_mix_goes_on_from_any_step(taken: int):
    config = settings(phases=PHASES, total_tokens=None, batch_size=2, max_length=16)
    first, second = three(config), three(config)
    for _ in range(taken):
        first.next_step()
    second.restore(first.state())
    for _ in range(8):
        for mine, other in zip(first.next_step(), second.next_step(), strict=True):
            np.testing.assert_array_equal(mine.inputs, other.inputs)
            np.testing.assert_array_equal(mine.segment_ids, other.segment_ids)
            assert mine.sources == other.sources
    assert first.state() == second.state() and first.figures() == second.figures()


def test_a_packed_row_has_the_losses_of_its_documents_alone(tiny: nn.Module):
    texts = ["abcdefghijk", "lm", "n" * 30, "opq"]
    batches = batches_of(settings(batch_size=1, max_length=48), TextSource("", source(texts)))
    (packed,) = batches.next_step()
    alone = [np.array([*ids, SEPARATOR], np.int32) for ids in encode(texts)]
    alone[-1] = alone[-1][:3]  # the row ends there
    rows = [TrainRow(ids, np.ones(ids.shape, bool)) for ids in alone]
    found = np.array(trained_token_losses(tiny, packed))
    wanted = np.concatenate([trained_token_losses(tiny, pad([row])) for row in rows])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    (across,) = batches_of(
        settings(batch_size=1, max_length=48, attend_across_documents=True), TextSource("", source(texts))
    ).next_step()
    assert across.trained_tokens == 48
    first = slice(0, 11)
    np.testing.assert_allclose(trained_token_losses(tiny, across)[first], found[first], rtol=1e-5)


def test_held_out_rows_have_every_token_once():
    config = settings(max_length=9, attend_across_documents=True)
    texts = ["abc", "de", "fghijkl" * 3]
    stream = flat(texts, passes=1)
    rows = validation_rows(texts, encode, SEPARATOR, config, count=100, name="x")
    assert [row.token_ids.tolist() for row in rows] == [stream[n : n + 10] for n in range(0, 29, 9)]
    assert all(row.loss_mask.all() and row.source == "x" for row in rows)
    few = validation_rows(iter(texts), encode, SEPARATOR, config, count=2)
    assert [row.token_ids.tolist() for row in few] == [stream[:10], stream[9:19]]
    apart = validation_rows(texts, encode, SEPARATOR, settings(max_length=9), count=100)
    assert sum(row.trained_tokens for row in apart) == 28 - 2  # but for the first of two documents
    assert all(row.segment_ids[0] == 0 for row in apart if row.segment_ids is not None)
    assert validation_rows([], encode, SEPARATOR, config, count=3) == []


def test_the_validation_of_a_mix_is_that_of_its_shares(tiny: nn.Module):
    config, shares = settings(max_length=12), {"a": 0.9, "b": 0.1}
    texts = {"a": ["abcabcabc"], "b": ["fgfgfg", "hihihihihihihihihi"] * 3}
    rows = {
        name: validation_rows(own, encode, SEPARATOR, config, count=9, name=name)
        for name, own in texts.items()
    }
    alone = {name: validate(tiny, Likelihood(), [pad(own)])[0] for name, own in rows.items()}
    loss, metrics = validate(tiny, Likelihood(), fixed_batches(weighted(rows, shares), 2))
    assert loss == pytest.approx(0.9 * alone["a"] + 0.1 * alone["b"], rel=1e-5)
    assert metrics == pytest.approx({f"loss/{name}": value for name, value in alone.items()}, rel=1e-5)


@pytest.mark.slow
def test_a_training_on_a_mix_resumes_bit_for_bit(make_tiny: Callable[[], nn.Module], tmp_path: Path):
    config = settings(
        phases=PHASES, total_tokens=None, batch_size=2, max_length=16, gradient_accumulation=2,
        checkpoint_every=3, validate_every=4, warmup_steps=2, learning_rate=1e-2,
    )  # fmt: skip
    rows = {
        name: validation_rows([name * 20], encode, SEPARATOR, config, count=4, name=name) for name in "abc"
    }
    validation = fixed_batches(weighted(rows, dict.fromkeys("abc", 1 / 3)), 4)

    def steps(folder: str, most: int | None) -> None:
        model = make_tiny()
        results = train(
            model,
            Likelihood(),
            three(config),
            config,
            output=Output(tmp_path / folder),
            validation=validation,
        )
        list(islice(results, most))

    for folder, most in (("whole", None), ("cut", 7), ("cut", None)):  # interrupted in the first phase
        steps(folder, most)
    whole, cut = (
        [row | {"seconds": 0} for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "cut")
    )
    assert len(whole) == 16 and whole == cut
    assert {f"loss/{name}" for name in "abc"} <= {name for row in whole for name in row["metrics"]}
    assert {"epoch/a", "tokens/c"} <= whole[-1]["metrics"].keys()
    assert {"validation_loss/a", "validation_loss/b", "validation_loss/c"} <= whole[-1]["metrics"].keys()
    assert "loss/a" not in whole[-1]["metrics"]  # its phase is over


def test_an_endless_source_is_read_only_as_far_as_needed():
    stream = TokenStream(lambda place: (Placed(n, str(n)) for n in range(place, 10**9)), encode, SEPARATOR)
    stream.take(100)
    assert stream.epoch() == 0


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match=r"the stream has no documents; pretraining needs at least one"):
        TokenStream(source([]), encode, SEPARATOR).take(3)


def test_the_encoder_knows_the_separator(tiny_tokenizer_dir: Path, tmp_path: Path):
    encode_batch, separator = fast_encoder(tiny_tokenizer_dir / "tokenizer.json")
    assert separator == 0
    (ids,) = encode_batch(["the first<|endoftext|>"])
    assert ids[-1] == 0
    with pytest.raises(ModelError, match=r"absent.json is not a readable tokenizer.json"):
        fast_encoder(tmp_path / "absent.json")
    codec = Tokenizer(models.BPE())
    codec.save(str(tmp_path / "none.json"))
    with pytest.raises(ModelError, match=r"none.json has no token that separates documents; expected one of"):
        fast_encoder(tmp_path / "none.json")
