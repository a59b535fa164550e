"""A hub on this machine, for tests of uploads."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub(ThreadingHTTPServer):
    """As much of the Hugging Face hub's protocol as an upload takes.

    Attributes:
        repos: the repositories that were made, with whether they are private.
        files: content of every committed file, by repository and path.
        refuse: status that every request is answered with, or None.
        tokens: the tokens that came along.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos: dict[str, bool] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.refuse: int | None = None
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._reply({"message": "unknown"}, 404)

    def do_PUT(self) -> None:
        """A large file, by its SHA-256."""
        self.server.blobs[self.path.rpartition("/")[2]] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        self.server.tokens.add(self.headers["Authorization"])
        path = self.path.partition("?")[0]
        if self.server.refuse:
            self._reply({"error": "not with this token"}, self.server.refuse)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repos[name] = asked.get("private") or asked.get("visibility") == "private"
            self._reply({"url": f"{self.server.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.url}/blobs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._reply({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[repo, value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[repo, value["path"]] = self.server.blobs[value["oid"]]
            self._reply({"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "1"})
        else:
            self._reply({"error": f"unknown path {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _reply(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
