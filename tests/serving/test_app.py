"""The description of the endpoints, further endpoints, and what the router refuses."""

import json

import pytest
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.serving.test_scheduler import Scripted
from typing_extensions import TypedDict

from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError
from smidgen.inference.loopback import is_loopback
from smidgen.serving.app import build_app
from smidgen.serving.faults import ApiError
from smidgen.serving.names import ModelNames, named_adapters
from smidgen.serving.openapi import Operation
from smidgen.serving.scheduler import Scheduler
from smidgen.serving.server import bind, url_of
from smidgen.serving.service import Service


class More(TypedDict):
    """Answer of `/v1/further`."""

    seen: bool


async def further(request: HttpRequest) -> JSONResponse:
    if request.method == "POST":
        raise ApiError(400, "the verdict is missing", param="verdict")
    if "fail" in request.query_params:
        raise RuntimeError("a secret")
    return JSONResponse({"seen": request.scope["state"]["seen"]})


class Seen:
    """A middleware that leaves a mark."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["seen"] = True
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def client(tiny_tokenizer_dir):
    scheduler = Scheduler(Scripted(), places=1)  # type: ignore[arg-type]
    names = ModelNames("owner/model:part", {"judge": tiny_tokenizer_dir})
    app = build_app(
        Service(names, scheduler, load_tokenizer(tiny_tokenizer_dir)),
        routes=[Route("/v1/further", further, methods=["GET", "POST"])],
        middleware=[Middleware(Seen)],
        operations=[Operation("get", "/v1/further", "Does more & better.", answer=More)],
    )
    yield TestClient(app, raise_server_exceptions=False)
    scheduler.close()


def test_the_description_is_complete_and_offline(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    paths = {"chat/completions", "completions", "models", "models/{model}", "further"}
    assert set(document["paths"]) == {f"/v1/{path}" for path in paths} | {"/health"}
    schemas, text = document["components"]["schemas"], json.dumps(document)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= schemas.keys() and {"ChatBody", "ChatAnswer", "Error", "More"} <= schemas.keys()
    assert schemas["ChatBody"]["additionalProperties"] is False
    fields = schemas["ChatBody"]["properties"]
    assert all("description" in field for name, field in fields.items() if name != "chat_template_kwargs")
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text and "//" not in page.text.replace("http://127.0.0.1:8765", "")
    assert "Does more &amp; better." in page.text and "repetition_penalty" in page.text


def test_models_have_names_with_any_sign(client):
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["owner/model:part", "judge"]
    assert client.get("/v1/models/owner/model:part").json()["id"] == "owner/model:part"
    assert client.get("/v1/models/judge").json()["parent"] == "owner/model:part"


def test_further_endpoints_have_the_middleware_and_the_shape_of_errors(client):
    assert client.get("/v1/further").json() == {"seen": True}
    answer = client.post("/v1/further")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": {
            "message": "the verdict is missing",
            "type": "invalid_request_error",
            "param": "verdict",
            "code": None,
        }
    }
    failed = client.get("/v1/further?fail=1")
    assert failed.status_code == 500 and "secret" not in failed.text
    assert failed.json()["error"]["message"] == "the server failed on this request; its log says why"


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v2/nothing", 404, "there is nothing at /v2/nothing; see /docs for what there is"),
        ("GET", "/v1/chat/completions", 405, "/v1/chat/completions does not take GET; use POST"),
        ("DELETE", "/v1/models", 405, "/v1/models does not take DELETE; use"),
    ],
)
def test_what_the_router_refuses_has_the_shape_of_errors(client, method, path, status, sentence):
    answer = client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]["message"].startswith(sentence)
    assert status == 404 or answer.headers["allow"]


def test_settings_that_contradict_each_other_are_refused(client):
    turn = {"role": "user", "content": "Hello"}
    for body, sentence in (
        (
            {"max_tokens": 1, "max_completion_tokens": 2},
            "max_tokens and max_completion_tokens are both",
        ),
        ({"max_tokens": 4097}, "max_tokens is 4097, more than the 4096 of this server; lower it"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens is 5000, more than the 4096"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs; set logprobs to true"),
        ({"stream_options": {}}, "stream_options is only for streams; set stream"),
        ({"response_format": {"type": "json_object"}, "stop": "x"}, "stop would cut off the JSON"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "this server was started without --thinking"),
    ):
        answer = client.post("/v1/chat/completions", json={"messages": [turn], **body})
        assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]


def test_adapters_need_a_name_and_a_folder(tmp_path):
    assert named_adapters([f"a={tmp_path}", f"b={tmp_path}"], "base") == {"a": tmp_path, "b": tmp_path}
    for given in ("judge", "=path", "judge="):
        with pytest.raises(ConfigError, match=f"the adapter is '{given}', expected NAME=PATH"):
            named_adapters([given], "base")
    with pytest.raises(ConfigError, match="the name 'base' is given twice"):
        named_adapters([f"base={tmp_path}"], "base")
    with pytest.raises(ConfigError, match="there is no adapter at nowhere; check the path of 'judge'"):
        named_adapters(["judge=nowhere"], "base")


def test_addresses():
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}/v1"
        with pytest.raises(ConfigError, match=f"on 127.0.0.1, port {port}: address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"there is no address no\.where\.invalid"):
        bind("no.where.invalid", 0)
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "example.org")))
