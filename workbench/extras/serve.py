"""Search this folder: `python serve.py "a question"`, or a question a line from the input.

`python serve.py --port 8000` answers http://127.0.0.1:8000/?q=a+question with JSON.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
ONNX = FOLDER / "model" / "onnx_whole"
MODEL = InferenceSession(ONNX / "model.onnx", providers=["CPUExecutionProvider"])
TOKENIZER = Tokenizer.from_file(str(ONNX / "tokenizer.json"))
PROMPT = json.loads((ONNX / "prompts.json").read_text()).get("query") or ""
PASSAGES = [json.loads(line) for line in (FOLDER / "documents.jsonl").open(encoding="utf-8")]
INDEX = np.load(FOLDER / "index.npy").astype(np.float32)  # a row for each passage
INDEX /= np.linalg.norm(INDEX, axis=1, keepdims=True)  # int8 rows need no other scale


def embed(query: str) -> np.ndarray:
    """Return a query's vector, float32 of shape (d,) and norm 1."""
    text = TOKENIZER.encode(PROMPT + query)
    inputs = {"input_ids": np.array([text.ids]), "attention_mask": np.array([text.attention_mask])}
    vector = MODEL.run(None, inputs)[0][0]
    return vector / np.linalg.norm(vector)


def search(query: str, k: int = 10, least: float = -1.0) -> list[dict]:
    """Return the best passage of each of k documents, of those with a score of at least `least`."""
    scores, hits = INDEX @ embed(query), {}
    for row in np.argsort(-scores, kind="stable"):
        if len(hits) == k or scores[row] < least:
            break
        hits.setdefault(PASSAGES[row]["id"], {"score": float(scores[row]), **PASSAGES[row]})
    return list(hits.values())


class Handler(BaseHTTPRequestHandler):
    """What the port answers."""

    def do_GET(self) -> None:
        """Send what a query finds."""
        queries = parse_qs(urlsplit(self.path).query).get("q")
        answer = search(queries[0]) if queries else {"error": "expected /?q=a+question"}
        self.send_response(200 if queries else 400)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--port"]:
        HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
    for question in [" ".join(sys.argv[1:])] if sys.argv[1:] else map(str.strip, sys.stdin):
        for hit in search(question):
            print(f"{hit['score']:.3f}  {hit['id']}  {' '.join(hit['text'].split())[:80]}")
