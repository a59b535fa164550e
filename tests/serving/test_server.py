"""A started server against its engine: what a client gets is what the engine says."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.serving.conftest import Started, chunks_of, started

from smidgen.data.types import Constraint, Message, Request, Sample, Sampling
from smidgen.inference import LocalEngine, open_engine
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.llama_files import llama_model
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load
from smidgen.options import EngineOptions
from smidgen.serving.names import ModelNames
from smidgen.serving.service import ServingSettings, warm_up

TEXTS = ["Hello", "Which is better, A or B?", "Name a colour.", "judge: the better answer is", "Why?"]


def said(engine: LocalEngine, text: str, role: str = "user", adapter: Path | None = None, **sampling) -> str:
    """What the engine itself answers."""
    request = Request(
        Sample("0", (Message(role, text),)), Sampling(**({"max_tokens": 8} | sampling)), adapter=adapter
    )
    ((_, completion),) = engine.complete([request])
    return completion.text


def content(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def test_answers_are_the_engines(server: Started):
    answer = server.chat(TEXTS[1])
    assert content(answer) == [said(server.engine, TEXTS[1])]
    facts = answer.json()
    usage = facts.pop("usage")
    assert usage["completion_tokens"] == 8 and usage["total_tokens"] == 8 + usage["prompt_tokens"]
    assert facts["object"] == "chat.completion" and facts["model"] == "base"
    (choice,) = facts["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    texts = server.complete(TEXTS[:2], n=2).json()
    assert texts["object"] == "text_completion"
    wanted = [said(server.engine, text, role="text") for text in TEXTS[:2] for _ in range(2)]
    assert [choice["text"] for choice in texts["choices"]] == wanted
    assert [choice["index"] for choice in texts["choices"]] == [0, 1, 2, 3]
    single = [server.complete(text).json()["usage"] for text in TEXTS[:2]]
    assert texts["usage"]["prompt_tokens"] == sum(each["prompt_tokens"] for each in single)
    assert texts["usage"]["completion_tokens"] == 2 * sum(each["completion_tokens"] for each in single)


def test_the_engine_for_servers_gets_the_same_answers(server: Started):
    engine = open_engine(EngineOptions(server.url))
    schema = Constraint("json_schema", '{"enum": ["yes", "no"]}')
    requests = [
        Request(Sample(str(i), (Message("user", text),)), Sampling(max_tokens=8), constraint)
        for i, (text, constraint) in enumerate((text, c) for text in TEXTS for c in (None, schema))
    ]
    here, there = (
        {request.sample.id: completion.text for request, completion in each.complete(requests)}
        for each in (server.engine, engine)
    )
    assert here == there


def test_messages_have_every_form_of_the_protocol(server: Started):
    system = [{"role": "system", "content": "Be brief."}]
    parts = [{"type": "text", "text": "Which is "}, {"type": "text", "text": "better?"}]
    plain = server.client.post(
        "/chat/completions",
        json={"messages": [*system, {"role": "user", "content": "Which is better?"}], "max_tokens": 8},
    )
    other = server.client.post(
        "/chat/completions",
        json={
            "messages": [
                {"role": "developer", "content": "Be brief.", "tool_calls": None},
                {"role": "user", "content": parts},
            ],
            "max_completion_tokens": 8,
        },
    )
    assert content(plain) == content(other)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_pieces_of_a_stream_are_the_whole_answer(server: Started, path: str):
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {"prompt": "Hello"}
    body = {**asked, "n": 2, "temperature": 0.8, "seed": 3, "max_tokens": 12, "logprobs": True}
    body["logprobs"] = True if "chat" in path else 0
    whole = server.client.post(path, json=body).json()
    streamed = server.client.post(
        path, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, last = chunks_of(streamed)
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    heads = {
        json.dumps({k: v for k, v in chunk.items() if k not in ("choices", "usage")}) for chunk in chunks
    }
    assert len(heads) == 1  # every chunk has the same id, object, time, model and fingerprint
    for choice in whole["choices"]:
        mine = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice["index"]]
        if "chat" in path:
            text, opening = choice["message"]["content"], mine.pop(0)
            assert opening["delta"] == {"role": "assistant", "content": "", "refusal": None}
            assert "".join(each["delta"].get("content", "") for each in mine) == text
            assert mine[-1]["delta"] == {}
        else:
            assert "".join(each["text"] for each in mine) == choice["text"]
        assert [each["finish_reason"] for each in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert mine[-1]["logprobs"] == pytest_approx(choice["logprobs"])
    assert len(chunks) > 6


def pytest_approx(logprobs: dict) -> dict:
    """Log-probabilities up to the rounding of batches of other sizes."""
    if "content" in logprobs:
        return {
            "content": [
                {**each, "logprob": pytest.approx(each["logprob"], abs=1e-3)} for each in logprobs["content"]
            ],
            "refusal": None,
        }
    return {**logprobs, "token_logprobs": pytest.approx(logprobs["token_logprobs"], abs=1e-3)}


def test_seeds_decide_the_answers(server: Started):
    asked = {"temperature": 1.0, "n": 3, "max_tokens": 12}
    first, again = (content(server.chat("Name a thing.", seed=5, **asked)) for _ in range(2))
    assert first == again and len(set(first)) > 1
    assert content(server.chat("Name a thing.", seed=6, **asked)) != first
    assert content(server.chat("Name a thing.", **asked)) != content(server.chat("Name a thing.", **asked))


def test_stop_strings_end_answers_before_them(server: Started):
    whole = content(server.chat("Hello", max_tokens=24))[0]
    stop = whole[len(whole) // 2 :][:3]
    for given in (stop, [stop, "never said"]):
        answer = server.chat("Hello", max_tokens=24, stop=given)
        assert content(answer) == [whole.partition(stop)[0]]
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
    chunks = chunks_of(server.chat("Hello", max_tokens=24, stop=stop, stream=True))
    texts = [each["delta"].get("content", "") for chunk in chunks for each in chunk["choices"]]
    assert "".join(texts) == whole.partition(stop)[0]


def test_log_probabilities_are_of_the_texts_of_tokens(server: Started):
    choice = server.chat("Hello", logprobs=True, top_logprobs=0).json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in tokens) == choice["message"]["content"]
    assert b"".join(bytes(each["bytes"]) for each in tokens).decode() == choice["message"]["content"]
    assert all(each["logprob"] <= 0 and each["top_logprobs"] == [] for each in tokens)
    request = Request(Sample("0", (Message("user", "Hello"),)), Sampling(max_tokens=8))
    ((_, completion),) = server.engine.complete([request])
    assert [each["logprob"] for each in tokens] == pytest.approx(list(completion.logprobs), abs=1e-3)
    choice = server.complete("The", logprobs=0).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"] and logprobs["top_logprobs"] is None
    assert [
        choice["text"][at:][: len(t)]
        for at, t in zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
    ] == logprobs["tokens"]


def test_the_most_probable_tokens_are_reported(server: Started):
    for streams in (False, True):
        answer = server.chat("Hello", logprobs=True, top_logprobs=5, stream=streams)
        choice = chunks_of(answer)[-1]["choices"][0] if streams else answer.json()["choices"][0]
        for each in choice["logprobs"]["content"]:
            tops = [top["logprob"] for top in each["top_logprobs"]]
            assert len(tops) == 5 and tops == sorted(tops, reverse=True)
            assert each["logprob"] == pytest.approx(tops[0], abs=1e-4)  # greedy decoding takes the best
            assert each["top_logprobs"][0]["token"].strip() == each["token"].strip()
    logprobs = server.complete("The", logprobs=3).json()["choices"][0]["logprobs"]
    for token, logprob, tops in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert tops[token] == max(tops.values()) == pytest.approx(logprob, abs=1e-4)


def test_answers_follow_a_schema(server: Started):
    schema = {
        "type": "object",
        "properties": {
            "better": {"enum": ["A", "B", "tie"]},
            "scores": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": 9},
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "required": ["better", "scores"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
    for seed, stream in enumerate((False, True, False, True)):
        answer = server.chat(
            "Which is better?", response_format=form, temperature=1.5, seed=seed, max_tokens=60, stream=stream
        )
        if stream:
            choices = [each for chunk in chunks_of(answer) for each in chunk["choices"]]
            text = "".join(each["delta"].get("content", "") for each in choices)
            assert choices[-1]["finish_reason"] == "stop"
        else:
            (text,) = content(answer)
        value = json.loads(text)
        assert value["better"] in ("A", "B", "tie") and len(value["scores"]) == 2
        assert all(1 <= score <= 9 for score in value["scores"])
    unbounded = server.chat("Which?", response_format={"type": "json_object"}, max_tokens=12)
    assert content(unbounded)[0].startswith("{")
    assert (
        server.chat("Which?", response_format={"type": "text"}).json()["choices"]
        == server.chat("Which?").json()["choices"]
    )


def test_requests_that_are_decoded_together_are_answered_as_alone(server: Started):
    def ask(i: int) -> list[str]:
        return content(server.chat(TEXTS[i % 5] + str(i), max_tokens=4 + i % 9, user=str(i % 3)))

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(24)))
    alone = [said(server.engine, TEXTS[i % 5] + str(i), max_tokens=4 + i % 9) for i in range(24)]
    assert together == [[text] for text in alone]


def test_bad_requests_have_their_status_also_in_streams(server: Started):
    for stream in (False, True):
        bad = server.chat("Hello", temperature=0.001, stream=stream)
        assert bad.status_code == 400
        assert "expected 0 for greedy decoding, or 0.01 or more" in bad.json()["error"]["message"]
        long = server.chat("word " * 20_000, stream=stream)
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    for schema, sentence in (
        ({"type": "sting"}, "'sting' is not valid"),
        ({"$ref": "#"}, "no text could come next"),  # no JSON is right
    ):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        for stream in (False, True):
            bad = server.chat(response_format=form, stream=stream)
            assert bad.status_code == 400 and sentence in bad.json()["error"]["message"]


def test_a_client_that_leaves_frees_its_place(server: Started):
    asked = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 400, "temperature": 1.5}
    for stream in (True, False):
        body = json.dumps({**asked, "stream": stream, "n": 4}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        host, port = server.client.base_url.host, server.client.base_url.port
        with socket.create_connection((host, port)) as leaving:
            leaving.sendall(head.encode() + body)
            server.wait_until(running=4)
        before = time.monotonic()
        server.wait_until(running=0)
        assert content(server.chat("Hello")) == [said(server.engine, "Hello")]
        assert time.monotonic() - before < 2


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Iterator[MlxEngine]:
    """A random model, which does not end its answers, in two places."""
    engine = MlxEngine(load(str(tiny_model_dir)), batch_size=2)
    yield engine
    engine.close()


@pytest.fixture(params=["mlx", "llama"])
def adaptable(request, tiny: MlxEngine, tiny_model_dir: Path, gguf_cache: None) -> Iterator[LocalEngine]:
    """The random model in each engine."""
    if request.param == "mlx":
        yield tiny
    else:
        engine = LlamaEngine(llama_model(str(tiny_model_dir), dtype="F32"), batch_size=2)
        yield engine
        engine.close()


def test_adapters_are_models_by_their_names(adaptable: LocalEngine, adapter_folders: dict[str, Path]):
    wanted = {name: said(adaptable, "judge", adapter=folder) for name, folder in adapter_folders.items()}
    wanted["base"] = said(adaptable, "judge")
    with started(adaptable, adapter_folders) as server:
        warm_up(server.scheduler, ModelNames("base", adapter_folders))
        assert [each["id"] for each in server.client.get("/models").json()["data"]] == [
            "base",
            *adapter_folders,
        ]
        assert server.client.get("/models/adapter-3").json()["parent"] == "base"
        with ThreadPoolExecutor(14) as pool:
            names = list(wanted) * 2
            found = list(pool.map(lambda name: server.chat("judge", model=name), names))
        assert [content(each)[0] for each in found] == [wanted[name] for name in names]
        assert [each.json()["model"] for each in found] == names
        assert len(set(wanted.values())) > 3
        unknown = server.chat(model="adaptor-3")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert (
            "Did you mean 'adapter-3'? This server has base, adapter-0" in unknown.json()["error"]["message"]
        )
        assert server.client.get("/models/nothing").status_code == 404


def test_a_full_queue_and_a_deadline_are_said_with_their_status(tiny: MlxEngine):
    settings = ServingSettings(deadline_s=0.5)
    with (
        started(tiny, places=1, most_waiting=1, settings=settings, slow_s=0.01) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        running = pool.submit(server.chat, max_tokens=400, stream=True)
        server.wait_until(running=1)
        waiting = pool.submit(server.chat, max_tokens=400)
        server.wait_until(running=1, waiting=1)
        full = server.chat()
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        assert full.json()["error"]["code"] == "overloaded"
        assert waiting.result().status_code in (503, 504)
        last = running.result().text.strip().rpartition("data: ")[2]  # the stream had begun
        assert json.loads(last)["error"]["code"] == "deadline_exceeded"
        assert server.chat(max_tokens=1).status_code == 200


def test_a_client_with_many_requests_does_not_hold_up_another(tiny: MlxEngine):
    with started(tiny, places=1, slow_s=0.002) as server, ThreadPoolExecutor(1) as pool:
        many = pool.submit(server.chat, max_tokens=8, n=20, user="many")
        server.wait_until(running=1, waiting=19)
        assert server.chat(max_tokens=8, user="one").status_code == 200
        assert server.scheduler.waiting > 10
        assert len(content(many.result())) == 20


@pytest.mark.parametrize("grace_s", [20.0, 0.2])
def test_a_server_that_stops_finishes_what_runs_and_takes_no_more(tiny: MlxEngine, grace_s: float):
    with (
        started(tiny, places=1, grace_s=grace_s, slow_s=0.01) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        running = pool.submit(server.chat, max_tokens=40 if grace_s > 1 else 400)
        server.wait_until(running=1)
        server.server.stop()
        late = server.chat()
        assert late.status_code == 503
        assert late.json()["error"]["message"] == "the server is stopping; ask again once it runs"
        health = server.client.get(server.url.replace("/v1", "/health"))
        assert (health.status_code, health.json()["status"]) == (503, "stopping")
        assert running.result().status_code == (200 if grace_s > 1 else 503)
        end = time.monotonic() + 5
        with pytest.raises(httpx2.TransportError):
            while time.monotonic() < end:
                httpx2.get(server.url + "/models", trust_env=False, verify=False)
                time.sleep(0.02)


def test_a_server_ends_by_itself_once_nobody_asks(tiny: MlxEngine):
    """A request that takes longer than that is answered, and the time begins after it."""
    with started(tiny, places=1, idle_s=0.5, slow_s=0.01) as server:
        begun = time.monotonic()
        assert server.chat(max_tokens=80).status_code == 200
        assert time.monotonic() - begun > 0.7
        assert server.chat(max_tokens=1).status_code == 200 and not server.scheduler.is_draining
        asked = time.monotonic()
        while not server.server.should_exit:
            assert time.monotonic() - asked < 20
            time.sleep(0.01)
        assert server.scheduler.is_draining and time.monotonic() - asked >= 0.5
