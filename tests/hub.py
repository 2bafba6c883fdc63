"""A small local server that speaks the hub's protocol, for tests of every path that goes to the hub.

It serves and takes models and data sets from memory: repository and tree listings, files with ETag,
commit and ranges, gated repositories, and uploads (regular and LFS). It can close a connection in
the middle of a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

TOKEN = "hf_a_token_that_opens_the_gate"


@dataclass
class Repo:
    """A repository: its commits, oldest first, and the names of some of them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        listing = [(path, _sha1(content)) for path, content in sorted(files.items())]
        sha = _sha1(f"{len(self.commits)} {listing}".encode())
        self.commits[sha], self.names["main"] = dict(files), sha
        return sha


class Hub(ThreadingHTTPServer):
    """The server's state.

    Attributes:
        repos: ("models" or "datasets", "owner/name") to the repository.
        cut: path to the number of bytes after which the connection is closed; at 0, every later
            request is closed too.
        requests: "METHOD path" of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.cut: dict[str, int] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def add(
        self,
        name: str,
        source: Path | dict[str, bytes],
        *,
        kind: str = "models",
        gated: bool = False,
    ) -> str:
        """Add a repository of a folder's files; return its commit."""
        repo = self.repos.setdefault((kind, name), Repo())
        repo.gated = gated
        return repo.commit(contents(source) if isinstance(source, Path) else source)

    def handle_error(self, request, client_address) -> None:
        """Say nothing of clients that went away."""


def contents(folder: str | Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def surroundings(hub: Hub, home: Path) -> dict[str, str]:
    """Return the environment of a process with this hub, and with `home` for its cache."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "",
        "WORKBENCH_HOME": str(home / "workbench"),
    }


@contextmanager
def serve() -> Iterator[Hub]:
    with Hub() as hub:
        options = {"poll_interval": 0.05}
        threading.Thread(target=hub.serve_forever, kwargs=options, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _asked(self) -> str:
        """Record the request and return its path."""
        self.server.requests.append(f"{self.command} {self.path}")
        return unquote(self.path.partition("?")[0]).lstrip("/")

    def do_GET(self) -> None:
        path, name = self._asked(), "([^/]+/[^/]+)"
        listing = re.fullmatch(
            rf"api/(models|datasets)/{name}(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path
        )
        content = re.fullmatch(rf"(?:(datasets)/)?{name}/resolve/([^/]+)/(.+)", path)
        if listing:
            kind, name, what, revision, folder = listing.groups()
            sha, files = self._open(kind, name, revision or "main")
            if sha:
                self._json(_tree(files, folder) if what == "tree" else _info(name, sha, files))
        elif content:
            kind, name, revision, file = content.groups()
            sha, files = self._open(kind or "models", name, revision)
            if sha:
                self._file(sha, file, files.get(file))
        else:
            self._error(404, "EntryNotFound", "nothing is here")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._asked(), self._body()
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "", "Invalid credentials in Authorization header")
        if path == "api/repos/create":
            options = json.loads(body)
            name = f"{options['organization']}/{options['name']}"
            self.server.repos.setdefault(("models", name), Repo()).commit({})
            return self._json({"url": f"{self.server.url}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}
            return self._json({"transfer": "basic", "objects": objects})
        _, _, owner, short, what, _ = path.split("/")
        name = f"{owner}/{short}"
        if what == "preupload":
            files = json.loads(body)["files"]
            for entry in files:
                is_large = entry["path"].endswith(".safetensors")
                entry |= {"uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            return self._json({"files": files})
        repo = self.server.repos["models", name]
        files = dict(repo.commits[repo.names["main"]])
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        sha = repo.commit(files)
        url = f"{self.server.url}/{name}/commit/{sha}"
        return self._json({"commitUrl": url, "commitOid": sha})

    def do_PUT(self) -> None:
        oid, content = self._asked().rpartition("/")[2], self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self._json({})

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _open(self, kind: str, name: str, revision: str) -> tuple[str | None, dict[str, bytes]]:
        """Return the commit of a revision and its files, or answer that there is none or no access."""
        repo = self.server.repos.get((kind, name))
        if repo is None:
            self._error(404, "RepoNotFound", "Repository not found")
            return None, {}
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            self._error(status, "GatedRepo", f"Access to {name} is restricted")
            return None, {}
        sha = repo.names.get(revision, revision)
        if sha not in repo.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None, {}
        return sha, repo.commits[sha]

    def _file(self, sha: str, path: str, content: bytes | None) -> None:
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        cut = self.server.cut.get(path) if self.command == "GET" else None
        if cut == 0:
            self.close_connection = True
            return None
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": sha,
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if cut:
            self.server.cut[path] = 0
            self.close_connection = True
        return self._answer(206 if start else 200, content[start:], headers, cut)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        reason = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, b"", reason | (headers or {}))

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _info(name: str, sha: str, files: dict[str, bytes]) -> dict:
    siblings = [{"rfilename": path} for path in files]
    return {"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings}


def _tree(files: dict[str, bytes], folder: str | None) -> list[dict]:
    rows = []
    for path, content in files.items():
        if folder and not path.startswith(f"{folder}/"):
            continue
        rows.append({"type": "file", "path": path, "size": len(content), "oid": _sha1(content)})
        if path.endswith((".safetensors", ".parquet")):
            oid = hashlib.sha256(content).hexdigest()
            rows[-1]["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
    return rows
