"""What stands before the endpoints, on an app without a model."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import pytest
from tests.serving.toy import ListedLog, toy

from smidgen.errors import ConfigError
from smidgen.serving.guard import MAX_HEADER_BYTES, Guards, middleware
from smidgen.serving.keys import Keys
from smidgen.serving.metrics import Metrics

KEY = "0123456789abcdef-key"
URL = "http://localhost:8000"


def asked(
    method: str, path: str, *, app: Any = None, guards: Guards | None = None, **given: Any
) -> httpx2.Response:
    """Ask an app, without a server."""

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app or toy(guards), raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url=URL) as client:
            return await client.request(method, path, **given)

    return asyncio.run(ask())


def echoed(headers: Mapping[str, str] | None = None, **given: Any) -> httpx2.Response:
    return asked("POST", "/v1/echo", json={"a": 1}, headers=dict(headers or {}), **given)


def sentence(response: httpx2.Response) -> str:
    found = response.json()
    assert set(found) == {"error"} and set(found["error"]) == {"message", "type", "param", "code"}
    return found["error"]["message"]


def test_what_is_right_passes_with_an_id_and_safe_headers():
    found = echoed()
    assert (found.status_code, found.json()) == (200, {"a": 1})
    assert found.headers["x-request-id"].startswith("req_")
    assert (
        found.headers["x-content-type-options"] == "nosniff" and found.headers["cache-control"] == "no-store"
    )
    assert not [name for name in found.headers if name.startswith("access-control")]
    assert echoed().headers["x-request-id"] != found.headers["x-request-id"]


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9000", "[::1]:8000", "LocalHost:80", "gpu.lan:8000"]
)
def test_known_hosts(host: str):
    assert echoed({"host": host}, guards=Guards(allowed_hosts=("gpu.lan",))).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "10.0.0.1",
        "evil@localhost",
        "",
        "a b",
    ],
)
def test_names_that_the_server_was_not_told_of(host: str):
    found = echoed({"host": host})
    assert found.status_code == 403 and "which this server is not known by" in sentence(found)


def test_a_server_at_every_address_takes_addresses_but_no_names():
    guards = Guards(address="0.0.0.0")
    assert echoed({"host": "192.168.1.7:8000"}, guards=guards).status_code == 200
    assert echoed({"host": "[fe80::1]:8000"}, guards=guards).status_code == 200
    assert echoed({"host": "evil.example"}, guards=guards).status_code == 403


def test_a_request_has_one_host():
    found = asked("POST", "/v1/echo", json={}, headers=[("host", "localhost"), ("host", "localhost")])
    assert found.status_code == 400 and "no header Host, or several" in sentence(found)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (URL, 200),
        ("https://localhost:8000", 200),
        ("https://tools.example.org", 200),
        ("http://localhost:3000", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_web_pages_of_other_origins(origin: str, status: int):
    guards = Guards(allowed_origins=("https://tools.example.org",))
    found = echoed({"origin": origin}, guards=guards)
    assert found.status_code == status
    assert status == 200 or "may not use this server" in sentence(found)
    assert asked("GET", "/health", headers={"origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"x-api-key": KEY},
    ],
)
def test_a_wrong_key(headers: dict[str, str]):
    found = echoed(headers, guards=Guards(keys=Keys([KEY, "another-key-of-16"])))
    assert found.status_code == 401 and found.headers["www-authenticate"] == "Bearer"
    assert found.json()["error"]["code"] == "invalid_api_key" and "Authorization: Bearer" in sentence(found)
    assert KEY not in found.text


def test_a_right_key_and_what_needs_none():
    guards = Guards(keys=Keys(["another-key-of-16", KEY]))
    assert echoed({"authorization": f"bearer {KEY}"}, guards=guards).status_code == 200
    assert asked("GET", "/health", guards=guards).status_code == 200
    assert asked("GET", "/metrics", guards=guards).status_code == 401


def test_wrong_keys_do_not_lock_out_who_shares_the_address():
    app = toy(Guards(keys=Keys([KEY])))
    for number in range(50):
        assert echoed({"authorization": f"Bearer {number:020}"}, app=app).status_code == 401
    assert echoed({"authorization": f"Bearer {KEY}"}, app=app).status_code == 200


def test_a_client_asks_only_so_often():
    app = toy(Guards(keys=Keys([KEY, "another-key-of-16"]), requests_per_minute=12))
    mine, other = {"authorization": f"Bearer {KEY}"}, {"authorization": "Bearer another-key-of-16"}
    found = [echoed(mine, app=app) for _ in range(4)]
    assert [each.status_code for each in found] == [200, 200, 429, 429]
    assert 1 <= int(found[-1].headers["retry-after"]) <= 5 and "wait" in sentence(found[-1])
    assert echoed(other, app=app).status_code == 200
    assert asked("GET", "/health", app=app).status_code == 200


def test_too_many_and_too_long_headers():
    many = echoed({f"x-{number}": "1" for number in range(200)})
    assert many.status_code == 431 and "headers; expected 100 at most" in sentence(many)
    long = echoed({"x-long": "1" * MAX_HEADER_BYTES})
    assert long.status_code == 431 and "shorten them" in sentence(long)
    assert asked("GET", "/health", params={"q": "1" * MAX_HEADER_BYTES}).status_code == 431


def test_a_failure_is_a_sentence_with_an_id_and_the_log_says_where():
    log = ListedLog()
    found = asked("POST", "/v1/fail", json={"prompt": "hush"}, app=toy(log=log))
    assert found.status_code == 500 and found.headers["x-request-id"] in sentence(found)
    assert "secret" not in found.text and "Traceback" not in found.text
    (row,) = log.rows
    assert row["fault"].startswith("ValueError at ") and "toy.py:" in row["fault"]
    assert "secret" not in json.dumps(row) and "hush" not in json.dumps(row)


def test_the_log_and_the_metrics_of_a_request():
    log, metrics = ListedLog(prompts=True), Metrics()
    app = toy(Guards(keys=Keys([KEY])), log=log, metrics=metrics)
    headers = {"authorization": f"Bearer {KEY}"}
    echoed(headers, app=app)
    asked("GET", "/nowhere/../../etc/passwd", app=app, headers=headers)
    first, second = log.rows
    assert first | {"id": "", "client": "", "ms": 0} == {
        "id": "", "client": "", "ms": 0, "method": "POST", "route": "/v1/echo", "status": 200,
        "model": "toy", "prompt_tokens": 7, "texts": {"a": 1},
    }  # fmt: skip
    assert first["client"].startswith("key-") and KEY not in json.dumps(log.rows)
    assert (second["route"], second["status"]) == ("other", 404)
    text = asked("GET", "/metrics", app=app, headers=headers).text
    for line in (
        'smidgen_requests_total{route="/v1/echo",status="200"} 1.0',
        'smidgen_requests_total{route="other",status="404"} 1.0',
        'smidgen_request_duration_seconds_count{route="/v1/echo"} 1.0',
    ):
        assert line in text
    assert float(text.partition("\nprocess_resident_memory_bytes ")[2].split("\n")[0]) > 1e7


def test_what_was_asked_is_not_logged_unless_wanted():
    log = ListedLog()
    echoed(app=toy(log=log))
    assert "texts" not in log.rows[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Guards(allowed_hosts=("http://x",)),
            "the allowed host is 'http://x'; expected a name alone",
        ),
        (lambda: Guards(allowed_hosts=("x:80",)), "the allowed host is 'x:80'"),
        (lambda: Guards(allowed_origins=("x",)), "the allowed origin is 'x'; expected a scheme and a host"),
        (lambda: Guards(max_body_bytes=0), "the largest body is 0; expected 1 or more"),
        (lambda: Guards(body_seconds=0), "the time for a body is 0"),
        (lambda: Guards(requests_per_minute=0), "the rate limit is 0"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Guards], message: str):
    with pytest.raises(ConfigError, match=message):
        make()


def test_without_keys_and_limits_there_is_nothing_that_checks_them():
    names = [each.cls.__name__ for each in middleware(Guards())]
    assert names == ["Lingering", "Answered", "Heads", "Hosts", "Origins", "Bodies"]


def test_web_sockets_are_closed_and_other_scopes_pass():
    sent: list[dict[str, Any]] = []
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    for each in reversed(middleware(Guards(keys=Keys([KEY]), requests_per_minute=1))):
        app = each.cls(app, *each.args, **each.kwargs)
    asyncio.run(app({"type": "websocket", "headers": []}, None, send))
    asyncio.run(app({"type": "lifespan"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}] and seen == ["lifespan"]
