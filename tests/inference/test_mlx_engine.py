import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from smidgen.backend import device
from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, DataError, ModelError
from smidgen.inference import lane as lane_module
from smidgen.inference import mlx as mlx_module
from smidgen.inference import scoring as scoring_module
from smidgen.inference import session as session_module
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import MlxForward
from smidgen.inference.inbox import Submitted
from smidgen.inference.mlx import MlxEngine

WORDS = ("the", "better", "answer", "is", "first", "second", "which", "why")


@pytest.fixture(scope="module")
def engine(loaded) -> MlxEngine:
    return MlxEngine(loaded, batch_size=4)


def ask(name: str, text: str, **sampling) -> Request:
    return Request(Sample(name, (Message("user", text),)), Sampling(**sampling))


def many(count: int, **sampling) -> list[Request]:
    """Requests whose prompts share a beginning and differ in length, and whose answers differ in length."""
    return [
        ask(str(i), "judge: " + " ".join(WORDS[: i % 5]) + str(i), **({"max_tokens": 3 + i % 7} | sampling))
        for i in range(count)
    ]


def answers(engine: MlxEngine, requests: list[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def assert_same(left: dict[str, Completion], right: dict[str, Completion]) -> None:
    assert left.keys() == right.keys()
    for name, completion in left.items():
        other = right[name]
        assert completion.token_ids == other.token_ids
        assert (completion.text, completion.finish_reason) == (other.text, other.finish_reason)
        assert completion.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def prompt_of(engine: MlxEngine, request: Request) -> list[int]:
    return engine._builder.tokenizer.render_prompt(request.sample.messages)


def test_greedy_equals_full_forward_passes(engine, naive_greedy, full_logits):
    ends = engine._builder.tokenizer.eos_token_ids
    requests = many(9)
    found = answers(engine, requests)
    for request in requests:
        completion, prompt = found[request.sample.id], prompt_of(engine, request)
        tokens = naive_greedy(prompt, request.sampling.max_tokens, ends)
        assert list(completion.token_ids) == tokens
        logits = full_logits(prompt + tokens)[len(prompt) - 1 : -1].astype(np.float64)
        expected = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, tokens, strict=True)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.2},
    ],
)
@pytest.mark.parametrize("read_ahead", [1024, 5])
def test_company_changes_nothing(loaded, engine, monkeypatch, sampling, read_ahead):
    monkeypatch.setattr(session_module, "READ_AHEAD", read_ahead)
    requests = many(13, **sampling)
    together = answers(engine, requests)
    one = MlxEngine(loaded, batch_size=1)
    assert_same(together, {name: c for request in requests for name, c in answers(one, [request]).items()})
    assert_same(together, answers(engine, requests[::-1]))


def test_the_path_of_other_devices_gives_the_same(loaded, engine):
    other = MlxEngine(loaded, batch_size=3)
    other._decoders.base = MlxForward(loaded.model)
    for sampling in ({}, {"temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.3}):
        requests = many(8, **sampling)
        assert_same(answers(engine, requests), answers(other, requests))


def test_seeds(engine):
    requests = many(4, temperature=1.5, max_tokens=12)
    assert_same(answers(engine, requests), answers(engine, requests))
    reseeded = [Request(r.sample, Sampling(max_tokens=12, temperature=1.5, seed=1)) for r in requests]
    first, second = answers(engine, requests), answers(engine, reseeded)
    assert any(first[name].token_ids != second[name].token_ids for name in first)


def test_equal_prompts_draw_their_own_tokens(engine):
    group = [ask(f"rollout {i}", "which is better", max_tokens=12, temperature=2.0) for i in range(4)]
    found = answers(engine, group)
    assert len({completion.token_ids for completion in found.values()}) > 1
    assert len({completion.logprobs[0] for completion in found.values()}) > 1


def test_penalties_equal_a_naive_loop(engine, full_logits):
    request = ask("a", "the the the", max_tokens=15, repetition_penalty=1.5, frequency_penalty=0.6)
    prompt, tokens = prompt_of(engine, request), []
    for _ in range(15):
        scores = full_logits(prompt + tokens)[-1]
        for token in set(prompt + tokens):
            scores[token] = scores[token] / 1.5 if scores[token] > 0 else scores[token] * 1.5
        for token in tokens:
            scores[token] -= 0.6
        tokens.append(int(scores.argmax()))
        if tokens[-1] in engine._builder.tokenizer.eos_token_ids:
            break
    assert list(answers(engine, [request])["a"].token_ids) == tokens


def test_any_end_token_ends(loaded, naive_greedy, monkeypatch):
    engine = MlxEngine(loaded)
    request = ask("a", "is the first better", max_tokens=12)
    tokens = naive_greedy(prompt_of(engine, request), 12)
    for end in (tokens[4], tokens[7]):
        monkeypatch.setitem(loaded.tokenizer.__dict__, "eos_token_ids", frozenset({2, end}))
        completion = answers(engine, [request])["a"]
        taken = tokens[: tokens.index(end) + 1]
        assert list(completion.token_ids) == taken
        assert completion.finish_reason == "stop"
        assert completion.text == loaded.tokenizer.decode(taken[:-1])
        assert len(completion.logprobs) == len(taken)


def test_stop_string_across_tokens(engine):
    requests = many(6, max_tokens=20)
    free = answers(engine, requests)
    stopped = []
    for request in requests:
        text = free[request.sample.id].text
        stop = text[5:8]
        stopped.append(Request(request.sample, Sampling(max_tokens=20, stop=(stop, "never said"))))
    for request, completion in engine.complete(stopped):
        whole = free[request.sample.id]
        stop = request.sampling.stop[0]
        assert completion.text == whole.text[: whole.text.index(stop)]
        assert completion.finish_reason == "stop"
        assert completion.token_ids == whole.token_ids[: len(completion.token_ids)]
        assert stop in engine._builder.tokenizer.decode(completion.token_ids)


def test_stream_gives_the_same_text_in_whole_pieces(engine):
    for request in many(3, max_tokens=25, temperature=1.0):
        whole = answers(engine, [request])[request.sample.id]
        stream = engine.stream(request)
        assert stream.completion is None
        pieces = list(stream)
        assert stream.completion is not None
        assert "".join(pieces) == stream.completion.text == whole.text
        assert stream.completion.token_ids == whole.token_ids
        assert all(pieces) and len(pieces) > 3


def test_stream_never_shows_part_of_a_stop_string(engine):
    request = many(1, max_tokens=25)[0]
    text = answers(engine, [request])[request.sample.id].text
    stop = text[6:10]
    pieces = list(engine.stream(Request(request.sample, Sampling(max_tokens=25, stop=(stop,)))))
    assert "".join(pieces) == text[: text.index(stop)]


def test_rows_are_no_more_than_memory_has_room_for(engine, loaded, monkeypatch):
    small = MlxEngine(loaded, batch_size=64)
    expected = answers(engine, many(12))
    rows = [small._builder.build(Submitted(i, request)) for i, request in enumerate(many(12))]
    longest = max(len(row.prompt) + row.max_tokens for row in rows)
    memory = 3.5 * longest * Decoder(small._decoders.base).bytes_per_token / lane_module.CACHE_SHARE
    monkeypatch.setattr(lane_module, "device", lambda: replace(device(), memory_bytes=int(memory)))
    held = []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self, rows: held.append(len(rows)) or step(self, rows))
    assert_same(answers(small, many(12)), expected)
    assert max(held) == 3


def test_an_answer_keeps_the_string_that_ends_it(engine):
    request = many(1, max_tokens=25)[0]
    text = answers(engine, [request])[request.sample.id].text
    end = text[6:10]
    ending = Request(request.sample, Sampling(max_tokens=25, stop_after=(end,)))
    completion = answers(engine, [ending])[request.sample.id]
    assert completion.text == text[: text.index(end) + len(end)]
    assert completion.finish_reason == "stop" and len(completion.token_ids) < 25
    assert "".join(engine.stream(ending)) == completion.text


def test_an_answer_ends_with_its_box_if_it_is_asked_to(loaded, engine, monkeypatch):
    script = loaded.tokenizer.encode(r"is \boxed{1{2}} second \boxed{3}")

    def answer(**sampling) -> Completion:
        tokens = iter(script)
        monkeypatch.setattr(lane_module, "draw", lambda *_: ([next(tokens)], [0.0]))
        return answers(engine, [ask("a", "the answer", max_tokens=len(script), **sampling)])["a"]

    assert answer().text == r"is \boxed{1{2}} second \boxed{3}"
    completion = answer(stop_at_boxed=True)
    assert (completion.text, completion.finish_reason) == (r"is \boxed{1{2}}", "stop")
    assert answer(stop_at_boxed=True, stop_after=("is",)).text == "is"


def test_a_text_is_gone_on_with_as_it_stands(loaded, engine, naive_greedy):
    request = Request(Sample("a", (Message("text", "the first <think>"),)), Sampling(max_tokens=6))
    prompt = loaded.tokenizer.encode("the first <think>")
    ends = loaded.tokenizer.eos_token_ids
    assert list(answers(engine, [request])["a"].token_ids) == naive_greedy(prompt, 6, ends)


CONTINUATIONS = ["the first", "", "the second", "the", "x", "the first one"]


def score(engine, messages, continuations=CONTINUATIONS, **settings):
    ((_, scored),) = engine.score([Sample("s", messages)], continuations, **settings)
    return scored.logprobs


@pytest.mark.parametrize(
    "continuations", [CONTINUATIONS, CONTINUATIONS[2:4], ["the second"], ["x", "y"], [""]]
)
def test_score_equals_full_forward_passes(engine, full_logits, continuations):
    messages = (Message("user", "which is better"),)
    prompt = engine._builder.tokenizer.render_prompt(messages)
    for text, scores in zip(continuations, score(engine, messages, continuations), strict=True):
        tokens = engine._builder.tokenizer.encode(text)
        logits = full_logits(prompt + tokens)[len(prompt) - 1 : -1].astype(np.float64)
        expected = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, tokens, strict=True)]
        assert scores == pytest.approx(expected, abs=1e-4)


def test_many_prompts_are_scored_as_one_is(engine, monkeypatch):
    samples = [Sample(str(i), (Message("user", "why " * (i % 5) + "so"),)) for i in range(9)]
    samples.append(Sample("long", (Message("user", "x" * 500),)))
    alone = {sample.id: score(engine, sample.messages) for sample in samples}
    monkeypatch.setattr(mlx_module, "READ_AHEAD", 6)
    together = {sample.id: scored.logprobs for sample, scored in engine.score(samples, CONTINUATIONS)}
    assert together.pop("long") is alone.pop("long") is None
    assert together.keys() == alone.keys()
    for name, logprobs in alone.items():
        for one, other in zip(logprobs, together[name], strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert score(engine, samples[0].messages, []) == []


def test_every_prompt_may_have_continuations_of_its_own(engine, monkeypatch):
    samples = [
        Sample(str(i), (Message(("user", "text")[i % 2], "why " * (i % 4) + "so"),), metadata={"n": i})
        for i in range(12)
    ]
    own = {s.id: [*CONTINUATIONS[: i % 5], f" is {i}"] for i, s in enumerate(samples)}
    alone = {s.id: score(engine, s.messages, own[s.id]) for s in samples}
    for limit in (1, 30, 1024):
        monkeypatch.setattr(scoring_module, "LOGIT_ROWS", limit)
        together = {sample.id: scored.logprobs for sample, scored in engine.score(samples, own)}
        assert together.keys() == alone.keys()
        for name, logprobs in alone.items():
            for one, other in zip(logprobs, together[name], strict=True):
                assert one == pytest.approx(other, abs=1e-4)


def test_a_raw_prompt_is_scored_as_the_whole_text(engine, full_logits):
    before, after = "which is the bet", "ter answer"
    tokens = engine._builder.tokenizer.encode(before + after)
    tails = engine._builder.tokenizer.encode_after((Message("text", before),), after)
    assert [*engine._builder.tokenizer.encode(before), *tails] == tokens or len(tails) > 1
    prompt = engine._builder.tokenizer.encode(before)
    logits = full_logits(prompt + tails)[len(prompt) - 1 : -1].astype(np.float64)
    expected = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, tails, strict=True)]
    (found,) = score(engine, (Message("text", before),), [after])
    assert found == pytest.approx(expected, abs=1e-4)


def test_improbable_branches_are_not_run(engine):
    messages = (Message("user", "which"),)
    texts = [f"{first} {second}" for first in range(10) for second in range(10)]
    every, few = score(engine, messages, texts), score(engine, messages, texts, least_share=0.2)
    firsts = np.array([math.exp(scores[0]) for scores in every])
    kept = firsts >= 0.2 * firsts[::10].sum()
    assert 0 < kept.sum() < len(texts)
    for whole, cut, is_kept in zip(every, few, kept, strict=True):
        assert cut == (
            pytest.approx(whole, abs=1e-4)
            if is_kept
            else [pytest.approx(whole[0]), *[-math.inf] * (len(whole) - 1)]
        )


def test_timing(engine):
    start = time.perf_counter()
    requests = many(10)
    for request, completion in engine.complete(requests):
        timing = completion.timing
        assert timing is not None
        assert 0 < timing.time_to_first_token <= timing.seconds <= time.perf_counter() - start
        assert timing.prompt_tokens == len(prompt_of(engine, request))
        assert timing.completion_tokens == len(completion.token_ids)
    assert engine.peak_memory_bytes() > 1_000_000


def test_requests_are_read_as_they_are_needed(engine, monkeypatch):
    monkeypatch.setattr(session_module, "READ_AHEAD", 3)
    read: list[str] = []

    def source() -> Iterator[Request]:
        for request in many(12):
            read.append(request.sample.id)
            yield request

    found = engine.complete(source())
    next(found)
    assert len(read) == 6  # those that run, and those that wait
    assert len(list(found)) == 11


def test_two_callers_at_a_time_and_one_who_leaves(engine):
    requests = many(6)
    expected = answers(engine, requests)
    left, right = engine.complete(requests), engine.complete(requests[:3])
    pairs = [next(left), next(right), next(left)]
    right.close()
    pairs += left
    for request, completion in pairs:
        assert completion.token_ids == expected[request.sample.id].token_ids
    assert_same(expected, answers(engine, requests))


def test_no_requests(engine):
    assert answers(engine, []) == {}


def test_generation_ends_with_the_context(engine):
    room = 512 - len(prompt_of(engine, ask("a", "")))
    completion = answers(engine, [ask("a", "x" * (room - 5), max_tokens=100, repetition_penalty=5.0)])["a"]
    assert completion.finish_reason == "length"
    assert completion.timing is not None
    assert completion.timing.prompt_tokens + completion.timing.completion_tokens == 512


def test_prompts_that_fill_the_context_have_no_completion(engine, monkeypatch):
    monkeypatch.setattr(session_module, "READ_AHEAD", 3)
    lengths = [5, 600, 5, 600, 600, 600, 5, 5, 600]
    requests = [ask(f"sample {i}", "x" * length) for i, length in enumerate(lengths)]
    found = answers(engine, requests)
    fitting = [request for request, length in zip(requests, lengths, strict=True) if length < 512]
    assert_same(answers(engine, fitting), {r.sample.id: found.pop(r.sample.id) for r in fitting})
    assert list(found.values()) == [Completion("", finish_reason="context")] * 5
    fault = r"the prompt has 6\d\d tokens and .* a context of 512, which leaves no room for an answer"
    with pytest.raises(DataError, match=fault):
        list(engine.stream(requests[1]))
    assert answers(engine, requests[:1])


def test_settings_are_checked(engine):
    with pytest.raises(ConfigError, match=r"top_p is 2\.0, expected more than 0 and at most 1"):
        answers(engine, [ask("a", "hello", top_p=2.0)])


def test_thinking(loaded, make_tokenizer_dir):
    thinking, plain = MlxEngine(loaded, thinking=True), MlxEngine(loaded)
    request = ask("a", "hello", max_tokens=5)
    left, right = answers(thinking, [request])["a"], answers(plain, [request])["a"]
    assert left.timing and right.timing
    assert right.timing.prompt_tokens > left.timing.prompt_tokens
    with pytest.raises(DataError, match="there are no messages to render"):
        answers(plain, [Request(Sample("a", ()))])


def test_templates_are_needed(loaded, monkeypatch):
    monkeypatch.setattr(loaded.tokenizer._backend, "chat_template", None)
    with pytest.raises(ModelError, match="has no chat template"):
        answers(MlxEngine(loaded), [ask("a", "hello")])
    plain = Request(Sample("a", (Message("text", "hello"),)), Sampling(max_tokens=2))
    assert answers(MlxEngine(loaded), [plain])["a"].timing


def test_close_twice(loaded):
    engine = MlxEngine(loaded)
    answers(engine, many(2))
    engine.close()
    engine.close()


@pytest.mark.parametrize("constraint", [None, Constraint("regex", "(yes, the first|no, the second)")])
def test_the_most_probable_tokens_are_those_of_the_distribution(loaded, engine, full_logits, constraint):
    messages = (Message("user", "which is better?"),)
    asked = Request(Sample("a", messages), Sampling(max_tokens=9), constraint, top_logprobs=3)
    ((_, found),) = engine.complete([asked])
    ((_, untold),) = engine.complete([replace(asked, top_logprobs=0)])
    assert (found.token_ids, untold.top_logprobs) == (untold.token_ids, ())
    assert len(found.top_logprobs) == len(found.token_ids) > 1
    logits = full_logits([*loaded.tokenizer.render_prompt(messages), *found.token_ids])
    for row, tops in zip(logits[-len(found.token_ids) - 1 :], found.top_logprobs, strict=False):
        expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert [logprob for _, logprob in tops] == pytest.approx(sorted(expected, reverse=True)[:3], abs=1e-3)
        assert [expected[token_id] for token_id, _ in tops] == pytest.approx([p for _, p in tops], abs=1e-3)
