"""Faults of what the workbench talks to: embedding servers, the hub, a page. Part of `python -m bench.faults`.

A server refuses, limits, breaks off, mixes up and shortens its answers while a cache is filled from it. A download from the
hub is cut in the middle of a file, or its process is killed. A page with a view is reloaded, frozen and starved, its kernel
restarted. In the end every vector, every file and every selection has to be the right one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import WorkbenchError

TEXTS = [Text(f"text {i} of a server's harness", list(Role)[i % 2]) for i in range(400)]
WIDTH = 16
_LOAD = (
    "import sys; from workbench import models; from workbench.errors import ModelError\n"
    "try: print(models.load_model(sys.argv[1]).encode(['bread']).tolist())\n"
    "except ModelError as error: sys.exit(3)\n"
)


def exact(texts: list[str]) -> np.ndarray:
    """Return the vectors that the server has for texts."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
    vectors = np.stack([np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds]).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def api_run(rng: random.Random) -> dict:
    """Fill a cache from a server that fails at random; return what was injected and lost."""
    from embedding_server import Server

    from workbench.extras.api_teachers import ApiTeacher

    faults: Counter[str] = Counter()

    class Faulty(Server):
        broken = True

        def answer(self, request, body, texts):
            kind = rng.choice(["", "", *_ANSWERS]) if self.broken else ""
            if not kind:
                return super().answer(request, body, texts)
            faults[f"server: {kind}"] += 1
            if kind == "broken off":
                request.close_connection = True
                return request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{")
            if kind == "limit":
                return self.send(request, 429, {"error": {"message": "slow down"}}, retry_after_ms="20")
            if kind == "failure":
                return self.send(request, 503, {"error": {"message": "busy"}})
            said = self.payload(body, texts)
            rows = said["data"]
            if kind == "out of order":
                rng.shuffle(rows)
            elif kind == "no index":
                for row in rows:
                    del row["index"]
            elif kind == "one short":
                rows.pop()
            elif kind == "twice the same index" and len(rows) > 1:
                rows[0]["index"] = rows[1]["index"]
            elif kind == "not a number":
                rows[0]["embedding"] = [None] * WIDTH
            elif kind == "no JSON":
                request.send_response(200)
                request.send_header("Content-Length", "4")
                request.end_headers()
                return request.wfile.write(b"<ht>")
            return self.send(request, 200, said)

    with tempfile.TemporaryDirectory() as folder, Faulty(exact, "m") as server:

        def filled() -> TargetCache:
            teacher = ApiTeacher("m", url=server.url, dimensions=WIDTH, name="m", batch_size=8, attempts=12)
            cache = TargetCache(folder, teacher)
            cache.fill(TEXTS)
            return cache

        for _ in range(4):
            with contextlib.suppress(WorkbenchError):  # what is finished is kept
                filled()
        server.broken = False
        cache = filled()
        wrong = (cache.targets(TEXTS)[:] - exact([text.text for text in TEXTS])).__abs__().max(axis=1) > 2e-3
    return {"texts": len(TEXTS), "lost": int(wrong.sum()) + len(cache.missing(TEXTS)), "faults": faults}


_ANSWERS = (
    "broken off", "limit", "failure", "out of order", "no index", "one short", "twice the same index", "not a number",
    "no JSON",
)  # fmt: skip


def hub_run(rng: random.Random, model: Path, wanted: list) -> dict:
    """Load a model from a hub whose connection is cut, or whose client is killed; return what was injected and lost."""
    from tests import hub as local

    faults: Counter[str] = Counter()
    with local.serve() as hub, tempfile.TemporaryDirectory() as home:
        hub.add("me/model", model)
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": f"{home}/hf", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "",
            "WORKBENCH_HOME": f"{home}/workbench",
        }  # fmt: skip

        def load() -> subprocess.Popen:
            command = [sys.executable, "-W", "ignore", "-c", _LOAD, "me/model"]
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )

        lost = 0
        for _ in range(4):
            kind = rng.choice(["cut", "cut", "killed"])
            faults[f"hub: {kind}"] += 1
            paths = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
            hub.cut = {path: rng.randrange(200) for path in rng.sample(paths, 2)} if kind == "cut" else {}
            process = load()
            if kind == "killed":
                time.sleep(rng.uniform(1, 6))
                process.kill()
            said, _ = process.communicate()
            if process.returncode == 0:  # it had arrived before: then it is the model
                lost += json.loads(said) != wanted
        hub.cut = {}
        said, _ = (last := load()).communicate()
        lost += last.returncode != 0 or json.loads(said) != wanted
    return {"lost": int(lost), "faults": faults}


def view_run(rng: random.Random, count: int) -> dict:
    """Hurt a page with a view, and look each time whether it is painted and its next lasso arrives."""
    from tests import lab
    from tests.test_browser import DATA, drag, lit, painted

    cell = "from workbench.widgets import AgreementExplorer\nview = AgreementExplorer({'teacher': teacher, 'student': student}, texts, umap=False)\nview"
    faults: Counter[str] = Counter()
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        server = lab.Lab(Path(folder))
        try:
            notebook = server.open("faults", [DATA.replace("COUNT", "300"), cell])
            notebook.run_all()
            page = notebook.page
            session = page.context.new_cdp_session(page)
            for _ in range(count):
                kind = rng.choice(["reload", "kernel restart", "frozen page", "starved page", "part started again"])
                faults[f"view: {kind}"] += 1
                if kind == "reload":
                    notebook.save()
                    page.goto(page.url.replace("&reset", ""))
                elif kind == "kernel restart":
                    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
                    notebook.run_all()
                elif kind == "part started again":
                    notebook.python("view._start_again() or 1")
                else:
                    session.send("Emulation.setCPUThrottlingRate", {"rate": 6 if kind == "starved page" else 1})
                    notebook.start()
                    if kind == "frozen page":
                        session.send("Page.setWebLifecycleState", {"state": "frozen"})
                        page.wait_for_timeout(1500)
                        session.send("Page.setWebLifecycleState", {"state": "active"})
                    notebook.wait_idle(240)
                    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
                try:
                    page.wait_for_selector(".workbench-map", timeout=60_000)
                    page.wait_for_timeout(1500)
                    corners = [(0.2, 0.1), (0.8, 0.1), (0.8, 0.9), (0.2, 0.9), (0.2, 0.12)]
                    drag(page, page.locator(".workbench-over").first, corners)
                    lit(page, notebook.eventually("len(view.selected)", lambda n: n > 0))
                    lost += painted(page) != [""]
                    notebook.python("view.select() or 1")
                except Exception as error:  # counted, and told
                    lost += 1
                    print(f"view, after {kind}: {error}", file=sys.stderr)
        finally:
            server.close()
    return {"lost": int(lost), "faults": faults}
