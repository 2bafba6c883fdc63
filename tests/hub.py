"""A small local server that speaks the hub's protocol, for tests of every path that goes to the hub.

It serves and takes models and data sets from memory: repository and tree listings, files with ETag, commit and ranges,
gated repositories, and uploads (regular and LFS). It can close a connection in the middle of a file.
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

    def commit(self, files: dict[str, bytes], tag: str | None = None) -> str:
        listing = [
            (path, hashlib.sha1(content).hexdigest()) for path, content in sorted(files.items())
        ]
        sha = hashlib.sha1(f"{len(self.commits)} {listing}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.names |= {"main": sha} | ({tag: sha} if tag else {})
        return sha


class Hub(ThreadingHTTPServer):
    """The server's state.

    Attributes:
        repos: ("models" or "datasets", "owner/name") to the repository.
        cut: path to the number of bytes after which the connection is closed; at 0, every later request is closed too.
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
        if isinstance(source, Path):
            source = contents(source)
        repo = self.repos.setdefault((kind, name), Repo())
        repo.gated = gated
        return repo.commit(source)

    def handle_error(self, request, client_address) -> None:
        """Say nothing of clients that went away."""


def contents(folder: str | Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def surroundings(hub: Hub, home: Path) -> dict[str, str]:
    """Return the environment of a process for which this is the hub, and `home` the place of its cache."""
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
        threading.Thread(
            target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        if found := re.fullmatch(
            r"api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path
        ):
            kind, name, what, revision, folder = found.groups()
            if sha := self._open(kind, name, revision or "main"):
                files = self.server.repos[kind, name].commits[sha]
                self._json(_tree(files, folder) if what == "tree" else _info(name, sha, files))
        elif found := re.fullmatch(r"(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = found.groups()
            kind = kind or "models"
            if sha := self._open(kind, name, revision):
                self._file(sha, file, self.server.repos[kind, name].commits[sha].get(file))
        else:
            self._error(404, "EntryNotFound", "nothing is here")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self._body()
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "", "Invalid credentials in Authorization header")
        if path == "api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.repos.setdefault(("models", name), Repo()).commit({})
            return self._json({"url": f"{self.server.url}/{name}"})
        if found := re.fullmatch(
            r"api/(models|datasets)/([^/]+/[^/]+)/(preupload|commit|paths-info)/([^/]+)", path
        ):
            kind, name, what, revision = found.groups()
            if sha := self._open(kind, name, revision):
                repo = self.server.repos[kind, name]
                if what == "preupload":
                    files = [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs"
                            if each["path"].endswith(".safetensors")
                            else "regular",
                            "shouldIgnore": False,
                        }
                        for each in json.loads(body)["files"]
                    ]
                    return self._json({"files": files})
                sent = [json.loads(line) for line in body.splitlines() if line.strip()]
                files = dict(repo.commits[sha])
                for row in sent:
                    value = row["value"]
                    if row["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif row["key"] == "lfsFile":
                        files[value["path"]] = self.server.objects[value["oid"]]
                sha = repo.commit(files)
                return self._json(
                    {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha}
                )
        elif found := re.fullmatch(r"([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        else:
            self._error(404, "EntryNotFound", "nothing is here")

    def do_PUT(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        oid, content = self.path.rpartition("/")[2], self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self._json({})

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _open(self, kind: str, name: str, revision: str) -> str | None:
        """Return the commit of a revision, or answer that there is none or no access."""
        repo = self.server.repos.get((kind, name))
        if repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            known = "Authorization" in self.headers
            return self._error(
                403 if known else 401, "GatedRepo", f"Access to {name} is restricted"
            )
        sha = repo.names.get(revision, revision)
        return (
            sha
            if sha in repo.commits
            else self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        )

    def _file(self, sha: str, path: str, content: bytes | None) -> None:
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        last = len(content) - 1
        cut = self.server.cut.get(path) if self.command == "GET" else None
        if cut == 0:
            self.close_connection = True
            return None
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if cut:
            self.server.cut[path] = 0
            self.close_connection = True
            content = content[: start + cut]
        self.wfile.write(content[start:])
        return None

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
        self._answer(
            status, b"", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(name: str, sha: str, files: dict[str, bytes]) -> dict:
    return {
        "id": name,
        "sha": sha,
        "private": False,
        "tags": [],
        "siblings": [{"rfilename": path} for path in files],
    }


def _tree(files: dict[str, bytes], folder: str | None) -> list[dict]:
    rows = []
    for path, content in files.items():
        if folder and not path.startswith(f"{folder}/"):
            continue
        row = {
            "type": "file",
            "path": path,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        if path.endswith((".safetensors", ".parquet")):
            row["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            }
        rows.append(row)
    return rows
