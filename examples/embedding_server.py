"""Serve a model on this machine with OpenAI's embeddings protocol: to try API teachers, or to serve a student."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

MOST_BYTES = 32_000_000  # of a request


class Server:
    """Answers POST /v1/embeddings on the loopback interface, in background threads, until it is closed.

    It is a context manager: `with Server(encode, "name") as server:`.

    Args:
        encode: texts to vectors, of shape (n, dimension); called by one thread at a time.
        model: the name that requests must ask for.
        port: 0 for any free one.
    """

    def __init__(
        self, encode: Callable[[list[str]], np.ndarray], model: str, port: int = 0
    ) -> None:
        self.encode, self.model = encode, model
        self._lock, self._closed = threading.Lock(), False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *_: object) -> None:
                """Keep texts and headers out of the terminal."""

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Check one request, and answer it."""
        length = int(request.headers.get("Content-Length") or 0)
        if self._closed or length > MOST_BYTES:
            request.close_connection = True
            return self.refuse(request, 503 if self._closed else 413, "closed, or too many bytes")
        content = request.rfile.read(length)
        if request.path != "/v1/embeddings":
            return self.refuse(request, 404, f"there is no {request.path[:80]}")
        try:
            body = json.loads(content)
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            if not texts or not all(isinstance(text, str) and text for text in texts):
                raise ValueError("input: a text or a list of texts that are not empty")
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(request, 400, f"{type(error).__name__}: {error}")
        if body.get("model") != self.model:
            return self.refuse(request, 404, f"the model here is {self.model}")
        return self.answer(request, body, texts)

    def answer(self, request: BaseHTTPRequestHandler, body: dict, texts: list[str]) -> None:
        """Answer a request that is well formed."""
        self.send(request, 200, self.payload(body, texts))

    def payload(self, body: dict, texts: list[str]) -> dict:
        """Return the answer to a request."""
        with self._lock:
            vectors = np.ascontiguousarray(self.encode(texts), dtype="<f4")
        items = []
        for index, vector in enumerate(vectors):
            embedding = vector.tolist()
            if body.get("encoding_format") == "base64":
                embedding = base64.b64encode(vector.tobytes()).decode()
            items.append({"object": "embedding", "index": index, "embedding": embedding})
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": self.model, "data": items, "usage": usage}

    def refuse(self, request: BaseHTTPRequestHandler, code: int, message: str) -> None:
        """Send an error."""
        self.send(request, code, {"error": {"message": message}})

    def send(
        self, request: BaseHTTPRequestHandler, code: int, answer: dict, **headers: str
    ) -> None:
        """Send JSON; an underscore in the name of a header stands for a hyphen."""
        content = json.dumps(answer).encode()
        request.send_response(code)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    def close(self) -> None:
        """Stop answering."""
        self._closed = True
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> Server:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
