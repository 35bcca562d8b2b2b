"""A hub on this machine: the part of Hugging Face's API that pushing and pulling use.

Weights take the way of large files (LFS), all else comes inside the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

TOKEN = "hf_made_up"


class Hub:
    """``files[repo][path]`` is what was committed; ``requests`` what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Run a hub that the client uses in place of the real one, with a cache folder."""
    from huggingface_hub import constants, file_download

    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in (constants, file_download):  # which copies it, in older versions
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    # Large files then take the plain way, which every hub knows.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def answer(self, content: object, code: int = 200, **headers: str) -> None:
        raw = isinstance(content, bytes)
        data = content if raw else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        if not raw:
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_one(self) -> None:
        path = self.path.split("?")[0]
        self.hub.requests.append((self.command, path))
        for pattern, name in ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                content = self.body()
                writes = self.command in ("POST", "PUT") and name != "put"
                if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.answer({"error": "Invalid credentials"}, 401)
                    return
                getattr(self, name)(content, *found.groups())
                return
        self.answer({"error": f"no such thing: {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        self.hub.files.setdefault(name, {})
        # How it is said depends on the client's version.
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.private.setdefault(name, bool(private))
        self.answer({"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def check_card(self, _: bytes) -> None:
        self.answer({"errors": [], "warnings": []})

    def before(self, body: bytes, _: str) -> None:
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = {n: "lfs" if n.endswith(".safetensors") else "regular" for n in names}
        files = [
            {"path": n, "uploadMode": modes[n], "shouldIgnore": False} for n in names
        ]
        self.answer({"files": files})

    def batch(self, body: bytes, _: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            link = {"href": f"{self.hub.address}/objects/{one['oid']}"}
            objects.append({**one, "actions": {"upload": link}})
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.answer(b"")

    def commit(self, body: bytes, repo: str) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                content = base64.b64decode(value["content"])
                self.hub.files[repo][value["path"]] = content
            elif entry["key"] == "lfsFile":
                self.hub.files[repo][value["path"]] = self.hub.objects[value["oid"]]
        address = f"{self.hub.address}/{repo}/commit/{SHA}"
        self.answer({"success": True, "commitOid": SHA, "commitUrl": address})

    def about(self, _: bytes, repo: str) -> None:
        if repo not in self.hub.files:
            self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": name} for name in self.hub.files[repo]]
        self.answer({"id": repo, "sha": SHA, "siblings": siblings})

    def tree(self, _: bytes, repo: str) -> None:
        files = self.hub.files[repo].items()
        self.answer(
            [
                {"type": "file", "path": n, "size": len(v), "oid": digest(v)}
                for n, v in files
            ]
        )

    def get(self, _: bytes, repo: str, name: str) -> None:
        content = self.hub.files[repo][name]
        self.answer(content, ETag=f'"{digest(content)}"', X_Repo_Commit=SHA)


SHA = "0123456789abcdef0123456789abcdef01234567"
ROUTES = [
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "check_card"),
    (r"POST /api/models/(.+)/preupload/main", "before"),
    (r"POST /(.+)\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /objects/(.+)", "put"),
    (r"POST /api/models/(.+)/commit/main", "commit"),
    (r"GET /api/models/(.+)/revision/.+", "about"),
    (r"GET /api/models/(.+)/tree/.+", "tree"),
    (r"GET /api/models/([^/]+/[^/]+)", "about"),
    (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/[^/]+/(.+)", "get"),
]


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
