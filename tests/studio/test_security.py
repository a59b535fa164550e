"""Who is refused, and what every answer carries."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tests.studio.conftest import ADDRESS, TOKEN

from smidgen.studio import make_app
from smidgen.studio.jobs import Jobs
from smidgen.studio.security import new_token
from smidgen.studio.workspace import Workspace


@pytest.fixture
def stranger(root: Path) -> TestClient:
    """A browser that does not know the token."""
    return TestClient(make_app(Workspace(root), TOKEN, Jobs(root)), base_url=ADDRESS, follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/workspace", "/api/runs/done/report.html"])
@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "é"])
def test_without_the_token_nothing_is_shown(stranger: TestClient, path: str, token: str):
    tries = [
        stranger.get(path),
        stranger.get(path, params={"token": token}),
        stranger.get(path, headers={"authorization": f"Bearer {token}".encode()}),
        stranger.get(path, headers={"cookie": f"smidgen-studio-8766={token}".encode()}),
    ]
    assert [answer.status_code for answer in tries] == [401] * 4
    assert "token is missing or wrong" in tries[0].json()["error"]


def test_the_address_of_the_terminal_becomes_a_cookie(stranger: TestClient):
    answer = stranger.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN in answer.headers["set-cookie"]
    assert stranger.get("/").status_code == 200
    assert stranger.get("/api/workspace").json()["name"] == "space"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8766", "192.168.0.7:8766", ""])
def test_another_name_of_the_host_is_refused(client: TestClient, host: str):
    answer = client.get("/api/workspace", headers={"host": host})
    assert answer.status_code == 421
    assert "not the address of the studio" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:8766", "127.0.0.1:8766", "[::1]:8766"])
def test_names_of_this_machine_are_served(client: TestClient, host: str):
    assert client.get("/api/workspace", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8766"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_changes_nothing(client: TestClient, headers: dict[str, str], root: Path):
    answer = client.put("/api/files/new.csv", content=b"a,b\n", headers=headers)
    assert answer.status_code == 403
    assert "comes from another page" in answer.json()["error"]
    assert not (root / "new.csv").exists()


def test_every_answer_forbids_scripts_of_others(client: TestClient, stranger: TestClient):
    for answer in (client.get("/"), client.get("/static/main.js"), client.get("/none"), stranger.get("/")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ") and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_report_may_do_nothing(client: TestClient):
    answer = client.get("/api/runs/done/report.html")
    assert answer.text == "<p>the report</p>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and policy.endswith("sandbox")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/api/runs/..%2f..%2fsecret/report.html",
        "/api/runs/%2e%2e/report.html",
        "/api/runs/linked/report.json",
        "/api/runs/-x/events",
        "/api/recipe?file=../secret.jsonl",
        "/api/recipe?file=link.jsonl",
        "/api/recipe?file=/etc/passwd",
        "/api/compare?first=../x&second=done/after",
        "/api/compare?first=done/../../x&second=done/after",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text.replace("secret.jsonl", "") and "root:" not in answer.text


def test_no_websocket_is_opened(client: TestClient):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/runs"):
        pass


def test_tokens_differ():
    assert len({new_token() for _ in range(50)}) == 50
    assert len(new_token()) >= 40


def test_the_page_has_no_inline_script_and_no_foreign_address():
    static = Path(__file__).parents[2] / "src" / "smidgen" / "studio" / "static"
    files = [file for file in static.rglob("*") if file.suffix in (".html", ".js", ".css", ".svg")]
    assert len(files) > 12
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text, file
        assert " style=" not in text and "onclick=" not in text, file
        assert text.count("\n") <= 350, file
