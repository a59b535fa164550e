"""The server as clients that others wrote see it: `openai`, `inspect_ai`, `llm` and curl."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("default"),  # those of the clients' own code
]
MODEL = "smidgen:nano"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server in a process of its own, with a short queue; Ctrl-C ends it."""
    errors = tmp_path_factory.mktemp("server") / "stderr"
    command = [sys.executable, "-m", "smidgen", "serve", MODEL, "--engine", "mlx", "--port", "0", "--json"]
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [*command, "--queue", "8", "--batch-size", "4"], stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, errors.read_text()
        yield json.loads(line)["url"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    said = errors.read_text()
    assert "Traceback" not in said and "is served at http://127.0.0.1:" in said


@pytest.fixture
def client(url: str):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_openai_chats_streams_and_completes(client):
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 12}
    whole = client.chat.completions.create(**asked, n=2, logprobs=True, user="me")
    text = whole.choices[0].message.content
    assert text and whole.choices[1].message.content == text
    assert "".join(each.token for each in whole.choices[0].logprobs.content) == text
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    with client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        chunks = list(chunks)
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens // 2
    with client.chat.completions.stream(**asked, stop=text[5:9]) as stream:  # it raises if one is cut off
        assert stream.get_final_completion().choices[0].message.content == text.partition(text[5:9])[0]
    continued = client.completions.create(model=MODEL, prompt="The", max_tokens=6, logprobs=0)
    assert "".join(continued.choices[0].logprobs.tokens) == continued.choices[0].text
    pieces = client.completions.create(model=MODEL, prompt="The", max_tokens=6, stream=True)
    assert "".join(each.choices[0].text for each in pieces) == continued.choices[0].text


def test_openai_lists_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "smidgen"


def test_openai_parses_answers_into_types(client):
    from pydantic import BaseModel

    class Verdict(BaseModel):
        better: bool
        scores: list[int]

    messages = [{"role": "user", "content": "Is it better?"}]
    parsed = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Verdict, max_tokens=100, temperature=1.2, seed=1
    )
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


def test_openai_raises_its_own_errors(client):
    import openai

    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(
        openai.BadRequestError, match="tools is not supported: this server calls no tools"
    ) as bad:
        client.chat.completions.create(
            **asked, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )
    assert (bad.value.param, bad.value.type) == ("tools", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="temperature is -1"):
        client.chat.completions.create(**asked, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5'") as missing:
        client.chat.completions.create(**(asked | {"model": "gpt-5"}))
    assert missing.value.code == "model_not_found"

    def ask(_: int) -> int:
        try:
            client.chat.completions.create(**asked, max_tokens=300, temperature=2.0, n=4)
        except openai.RateLimitError as error:
            assert error.response.headers["retry-after"] == "1"
            return 429
        return 200

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, range(12))) == {200, 429}


def test_openai_waits_and_tries_again(url: str):
    openai = pytest.importorskip("openai")

    async def work() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=9, timeout=60) as client:
            asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}
            answers = [client.chat.completions.create(**asked) for _ in range(24)]
            return [each.choices[0].message.content for each in await asyncio.gather(*answers)]

    assert len(set(asyncio.run(work()))) == 1


def test_inspect_ai_evaluates(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("inspect_ai")
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    monkeypatch.setenv("SMIDGEN_API_KEY", "none")
    monkeypatch.setenv("SMIDGEN_BASE_URL", url)
    rows = [Sample(input=f"Say {word}.", target="e") for word in ("yes", "no", "tree", "bee", "one")]
    (log,) = eval(
        Task(dataset=rows, solver=generate(), scorer=includes()),
        model=f"openai-api/smidgen/{MODEL}",
        max_tokens=16,
        temperature=0.7,
        seed=1,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    assert len(log.samples) == 5 and all(each.output.completion for each in log.samples)
    assert log.stats.model_usage[f"openai-api/smidgen/{MODEL}"].output_tokens > 5


def test_llm_prompts_streams_and_follows_a_schema(url: str, tmp_path: Path):
    pytest.importorskip("llm")
    entries = [
        f'- model_id: nano\n  model_name: "{MODEL}"\n  api_base: "{url}"\n  supports_schema: true\n',
        f'- model_id: text\n  model_name: "{MODEL}"\n  api_base: "{url}"\n  completion: true\n',
    ]
    (tmp_path / "extra-openai-models.yaml").write_text("".join(entries), encoding="utf-8")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}

    def llm(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    limits = ("-o", "max_tokens", "12")
    streamed = llm("-m", "nano", "Hello", *limits)
    assert streamed and streamed == llm("-m", "nano", "--no-stream", "Hello", *limits)
    assert llm("-m", "text", "The", *limits)
    schema = {"type": "object", "properties": {"better": {"type": "boolean"}}, "required": ["better"]}
    closed = json.dumps({**schema, "additionalProperties": False})
    answer = llm("-m", "nano", "Better?", "--schema", closed, "-o", "max_tokens", "60")
    assert type(json.loads(answer)["better"]) is bool


def test_curl_asks_and_streams(url: str):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "60", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
    json_type = ("-H", "content-type: application/json")
    whole = json.loads(curl(f"{url}/chat/completions", *json_type, "-d", json.dumps(asked)))
    streamed = curl("-N", f"{url}/chat/completions", *json_type, "-d", json.dumps({**asked, "stream": True}))
    lines = streamed.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    text = whole["choices"][0]["message"]["content"]
    assert "".join(each["delta"].get("content", "") for each in choices) == text
    form = json.loads(curl(f"{url}/chat/completions", "-d", json.dumps(asked)))
    assert "send JSON with the header content-type: application/json" in form["error"]["message"]
