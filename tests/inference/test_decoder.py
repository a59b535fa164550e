import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.conftest import TINY_CONFIG, random_qwen3, write_tokenizer

from smidgen.inference import decoder as decoder_module
from smidgen.inference import kept_prefixes, prefixes
from smidgen.inference.cpu_forward import CpuForward
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import ForwardPass, MlxForward
from smidgen.inference.kv_cache import GROWTH
from smidgen.models.load import load

PROMPTS = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 3, 4, 5], [1, 2, 3, 4, 7, 8, 9, 10]]


@pytest.fixture(scope="module", params=[CpuForward, MlxForward])
def forward(request, loaded):
    return request.param(loaded.model)


@pytest.fixture
def ran(forward, monkeypatch) -> list[list[int]]:
    """How many tokens of each row every pass has run."""
    passes: list[list[int]] = []
    hidden = forward.hidden

    def counted(rows, at, caches):
        passes.append([len(row) for row in rows])
        return hidden(rows, at, caches)

    monkeypatch.setattr(forward, "hidden", counted)
    return passes


class Mirror:
    """A decoder whose every answer is checked against full forward passes over its rows."""

    def __init__(self, forward, full_logits):
        self.decoder, self.full_logits = Decoder(forward), full_logits
        self.rows: list[list[int]] = []

    def add(self, prompts: list[list[int]], last: int | list[int] = 1) -> None:
        lasts = [last] * len(prompts) if isinstance(last, int) else last
        self.check(self.decoder.add(prompts, last), prompts, lasts)
        self.rows += map(list, prompts)

    def step(self, counts: list[int] | None = None) -> None:
        """Run so many new tokens in each row; one, if not told."""
        counts = counts or [1] * len(self.rows)
        new = [
            [(7 * len(row) + row[-1] + k) % 300 for k in range(count)]
            for row, count in zip(self.rows, counts, strict=True)
        ]
        self.rows = [row + tokens for row, tokens in zip(self.rows, new, strict=True)]
        self.check(self.decoder.step(new), self.rows, counts)

    def remove(self, row: int) -> None:
        self.decoder.remove(row)
        self.rows[row] = self.rows[-1]
        self.rows.pop()

    def rollback(self, counts: list[int]) -> None:
        self.decoder.rollback(counts)
        self.rows = [row[: len(row) - count] for row, count in zip(self.rows, counts, strict=True)]
        assert self.decoder.lengths == tuple(map(len, self.rows))

    def check(self, logits, rows: list[list[int]], lasts: list[int]) -> None:
        expected = np.concatenate(
            [self.full_logits(row)[-last:] for row, last in zip(rows, lasts, strict=True)]
        )
        assert np.array(logits) == pytest.approx(expected, abs=1e-3)


def test_rows_join_and_leave_at_any_time(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    assert mirror.decoder.share(PROMPTS) == 3
    mirror.add(PROMPTS[:3])
    mirror.step()
    mirror.remove(0)
    mirror.step()
    mirror.add(PROMPTS[2:])
    mirror.step()
    mirror.remove(3)
    mirror.remove(1)
    mirror.step()
    assert mirror.decoder.num_rows == len(mirror.rows) == 2


def test_rows_go_on_when_another_prefix_is_shared(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    mirror.decoder.share(PROMPTS)
    mirror.add(PROMPTS)
    mirror.step()
    assert mirror.decoder.share([[1, 2, 8, 8, 8, 4], [1, 2, 8, 8, 8, 5]]) == 5
    mirror.step()
    mirror.add([[1, 2, 8, 8, 8, 4]])
    mirror.step()
    mirror.rollback([len(row) - 1 for row in mirror.rows])
    mirror.step()


@pytest.mark.slow
@pytest.mark.parametrize("family_tokens", [1, 16])
@given(data=st.data())
def test_any_history_equals_full_forward_passes(forward, full_logits, family_tokens, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "FAMILY_TOKENS", family_tokens)
        patch.setattr(kept_prefixes, "FAMILY_TOKENS", family_tokens)
        check_history(Mirror(forward, full_logits), data)


def check_history(mirror: Mirror, data: st.DataObject) -> None:
    some_prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)
    prompts = data.draw(some_prompts)
    mirror.decoder.share(prompts)
    actions = ["add", "step", "remove", "rollback", "share", "reuse", "adopt"]
    for action in data.draw(st.lists(st.sampled_from(actions), max_size=12)):
        if action in ("share", "reuse"):
            prompts = data.draw(some_prompts)
            getattr(mirror.decoder, action)(prompts)
        elif action == "adopt":
            if len(mirror.rows) == 1:
                mirror.decoder.adopt(list(mirror.rows[0]))
                prompts = [mirror.rows[0]]
                mirror.decoder.reuse(prompts)
        elif action == "add":
            mirror.add(data.draw(st.lists(st.sampled_from(prompts), min_size=1, max_size=4)))
        elif mirror.rows and action == "step":
            size = len(mirror.rows)
            mirror.step(data.draw(st.lists(st.integers(1, 3), min_size=size, max_size=size)))
        elif mirror.rows and action == "rollback":
            mirror.rollback([data.draw(st.integers(0, len(row) - 1)) for row in mirror.rows])
        elif mirror.rows:
            mirror.remove(data.draw(st.integers(0, len(mirror.rows) - 1)))


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> MlxForward:
    """A model whose heads are wide enough for keys and values of 8 bits."""
    config = TINY_CONFIG | {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    path = write_tokenizer(tmp_path_factory.mktemp("wide"))
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(random_qwen3(config), path / "model.safetensors", metadata={"format": "pt"})
    return MlxForward(load(str(path)).model, kv_bits=8)


@pytest.fixture(scope="module", params=["plain", "8 bits"])
def any_cache(request) -> tuple[ForwardPass, float]:
    """A forward pass, and how far its logits may be from those of other blocks.

    A key that falls on the other side of a rounding to 8 bits moves logits by up to 0.03, another token by 2.
    """
    if request.param == "8 bits":
        return request.getfixturevalue("quantised"), 0.1
    return MlxForward(request.getfixturevalue("loaded").model), 1e-3


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=15)
def test_blocks_and_rollback_leave_no_trace(any_cache, data):
    """Rows that step in blocks, some of them taken back, end as rows that step token by token."""
    size = data.draw(st.integers(1, 4))
    prompts = [[5 + row, 6, 7] for row in range(size)]
    forward, tolerance = any_cache
    in_blocks, one_by_one = Decoder(forward), Decoder(forward)
    for decoder in (in_blocks, one_by_one):
        decoder.add(prompts)
    for _ in range(data.draw(st.integers(1, 3))):
        kept = [data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=4)) for _ in prompts]
        tried = [data.draw(st.lists(st.integers(0, 299), max_size=3)) for _ in prompts]
        logits = np.array(in_blocks.step([left + right for left, right in zip(kept, tried, strict=True)]))
        in_blocks.rollback([len(tail) for tail in tried])
        ends = np.cumsum([len(left) + len(right) for left, right in zip(kept, tried, strict=True)])
        for row, block in enumerate(kept):
            alone = []
            for token in block:  # the other rows run a token as well, and take it back
                step = np.array(one_by_one.step([[token]] * size))
                one_by_one.rollback([int(other != row) for other in range(size)])
                alone.append(step[row])
            start = ends[row] - len(block) - len(tried[row])
            assert logits[start : start + len(block)] == pytest.approx(np.array(alone), abs=tolerance)
        assert in_blocks.lengths == one_by_one.lengths


def test_rows_that_were_rolled_back_leave_and_are_forked(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    mirror.add(PROMPTS)
    mirror.step([3, 1, 2, 4])
    mirror.rollback([3, 0, 1, 6])
    mirror.remove(1)
    got = np.array(mirror.decoder.fork([1, 0], [[8, 9], [4]]))
    expected = [full_logits([*mirror.rows[1], 8, 9])[-2:], full_logits([*mirror.rows[0], 4])[-1:]]
    assert got == pytest.approx(np.concatenate(expected), abs=1e-3)
    mirror.step([1, 2, 1])


def test_the_prefix_cache_outlasts_prompts_without_it(forward, full_logits, ran):
    mirror = Mirror(forward, full_logits)
    assert mirror.decoder.share([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7]]) == 4
    assert mirror.decoder.reuse([[1, 2, 9]]) == 2 == mirror.decoder.num_cached([1, 2, 9])
    mirror.add([[1, 2, 9]])
    assert mirror.decoder.share([[8, 8], [9]]) == 0
    mirror.add([[8, 8], [9]])
    assert mirror.decoder.reuse([[1, 2, 3, 4, 8]]) == 4
    mirror.add([[1, 2, 3, 4, 8]])
    assert [sum(passed) for passed in ran] == [4, 1, 3, 1]
    mirror.step()


def test_each_prompt_has_its_own_number_of_scores(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    mirror.decoder.share([[1, 2, 3], [1, 2, 4]])
    long = [1, 2, 3, *range(5, 40)]
    mirror.add([long, [*long, 7, 8], long, [1, 2, 4], [1, 2, 4, 5, 6]], [4, 30, 1, 1, 3])
    mirror.step([2, 1, 1, 5, 1])


def test_a_shared_prefix_is_run_once(forward, full_logits, ran):
    mirror = Mirror(forward, full_logits)
    mirror.decoder.share(PROMPTS)
    mirror.add(PROMPTS)
    assert ran == [[3], [2, 1, 5]]  # the second copy of a prompt is not run either
    longer = [[*PROMPTS[0], 11, 12], [*PROMPTS[0], 13]]
    assert mirror.decoder.share(longer) == 5
    mirror.add(longer)
    assert ran[2:] == [[2], [2, 1]]
    mirror.step()
    shorter = [[1, 2, 30], [1, 2, 31, 32]]
    assert mirror.decoder.share(shorter) == 2
    mirror.add(shorter)
    assert [sum(passed) for passed in ran[4:]] == [6, 3]


def test_prefix_stays_when_rows_are_cleared(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    mirror.decoder.share(PROMPTS)
    mirror.add(PROMPTS)
    mirror.decoder.clear()
    mirror.rows = []
    assert mirror.decoder.num_rows == 0
    mirror.decoder.share(PROMPTS[:1])
    mirror.add(PROMPTS[:1])
    mirror.step()


def test_long_prompts_are_run_in_parts(forward, full_logits, monkeypatch):
    monkeypatch.setattr(decoder_module, "PREFILL_TOKENS", 4)
    mirror = Mirror(forward, full_logits)
    prompts = [list(range(1, 12)), [*range(1, 10), 50, 51, 52, 53, 54, 55]]
    mirror.decoder.share(prompts)
    mirror.add(prompts[:1])
    mirror.add(prompts[1:])
    mirror.step()


def test_rows_outgrow_the_buffer(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    prompts = [list(range(GROWTH - 1)), list(range(1, GROWTH - 20))]
    mirror.decoder.share(prompts)
    mirror.add(prompts)
    for _ in range(3):
        mirror.step()


def test_neighbours_run_what_they_share_once(forward, full_logits, ran, monkeypatch):
    monkeypatch.setattr(prefixes, "FAMILY_TOKENS", 3)
    pair, other = [1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 9, 10]
    prompts = [[1, 2, 50], [*pair, 20, 21], [*pair, 30], [*other, 40], [*other, 41, 42], [*other, 43], [1, 2]]
    mirror = Mirror(forward, full_logits)
    assert mirror.decoder.share([*prompts, [1, 60]]) == 1
    mirror.add(prompts)
    assert ran == [[1], [5, 5], [2, 2, 1, 1, 2, 1, 1]]
    mirror.step()


def test_what_some_of_a_family_share_is_run_once_too(forward, full_logits, ran, monkeypatch):
    monkeypatch.setattr(prefixes, "FAMILY_TOKENS", 2)
    question, answers = [1, 2, 3], ([4, 5, 6], [7, 8, 9], [10, 11, 12])
    prompts = [question + left + right for left in answers for right in answers if left != right]
    mirror = Mirror(forward, full_logits)
    mirror.decoder.share([*prompts, [1, 60]])
    mirror.add(list(reversed(prompts)))
    assert ran == [[1], [2], [3, 3, 3], [3] * 6]
    mirror.step()


def test_tails_are_scored_beside_the_rows(forward, full_logits):
    mirror = Mirror(forward, full_logits)
    prompts, tails = [[1, 2, 3, 4], [3]], [[5, 6, 7], [8], [5, 9]]
    mirror.decoder.share(prompts)
    mirror.add(prompts)
    rows = [0, 1, 0]
    got = np.array(mirror.decoder.fork(rows, tails))
    expected = [
        full_logits(prompts[row] + tail)[len(prompts[row]) :] for row, tail in zip(rows, tails, strict=True)
    ]
    assert got == pytest.approx(np.concatenate(expected), abs=1e-3)
    mirror.step()


def test_the_last_tokens_of_every_prompt_are_scored(forward, full_logits):
    decoder = Decoder(forward)
    decoder.share([prompt[:-2] for prompt in PROMPTS])
    got = np.array(decoder.add(PROMPTS, last=3))
    assert got == pytest.approx(np.concatenate([full_logits(row)[-3:] for row in PROMPTS]), abs=1e-3)


def test_kinds_of_prompts_take_turns_without_being_computed_again(forward, full_logits, ran):
    """What two prompts of a kind shared is kept when the other kind takes the prefix cache."""
    kinds = [[[1, 2, *range(at, at + 30), last] for last in range(5, 9)] for at in (20, 60, 100)]
    mirror = Mirror(forward, full_logits)
    for prompts in kinds:
        mirror.decoder.share(prompts[:2])
    ran.clear()
    for turn in range(2, 4):
        for prompts in kinds:
            assert mirror.decoder.num_cached(prompts[turn]) == 32
            mirror.decoder.reuse([prompts[turn]])
            mirror.add([prompts[turn]])
            mirror.decoder.adopt(prompts[turn])
            mirror.decoder.clear()
            mirror.rows.clear()
    assert ran == [[1]] * 6  # the last token of every prompt


def test_only_what_is_shared_is_kept_aside(forward, full_logits, ran, monkeypatch):
    one, other = [[1, 2, *range(at, at + 30), 5] for at in (20, 60)]
    mirror = Mirror(forward, full_logits)
    for prompt in (one, other):
        mirror.decoder.share([prompt])
    assert mirror.decoder.num_cached(one) == 2 and mirror.decoder.place_aside(one) is None
    mirror.decoder.share([other, [*other[:-1], 6]])
    mirror.decoder.share([one])
    assert mirror.decoder.num_cached(other) == 32 and mirror.decoder.place_aside(other) is not None
    monkeypatch.setattr(kept_prefixes, "KEPT_BYTES", 0)
    mirror.decoder.share([one, [*one[:-1], 6]])
    mirror.decoder.share([[9, 9, 9]])
    assert mirror.decoder.num_cached(one) == 0


def test_quantised_prefixes_are_kept_as_they_are(quantised):
    """A kind of prompts that comes back is answered as if no other kind had been there."""
    one, other = [[[1, 2, *range(at, at + 30), last] for last in (5, 6)] for at in (20, 60)]
    alone, visited = Decoder(quantised), Decoder(quantised)
    for decoder in (alone, visited):
        decoder.share(one)
    visited.share(other)
    assert visited.reuse(one[:1]) == alone.reuse(one[:1]) == 32
    assert np.array_equal(np.array(visited.add(one[:1])), np.array(alone.add(one[:1])))
