"""Faults from outside for `bench.faults`: of a server that makes the teacher's vectors, of the hub, and of the page.

    python -m bench.faults_outside hub RUNS SEED

The hub has a process of its own, because its client reads the address when it is imported. It prints one line of JSON for
each run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from embedding_server import Server

from tests import hub as local_hub
from workbench._util import PROJECT

WIDTH = 32  # bytes of a SHA-256
_FORK = multiprocessing.get_context(
    "fork"
)  # a child starts in milliseconds, with everything imported


def start(work: Callable[[], object]) -> multiprocessing.Process:
    """Run something in a process of its own."""
    child = _FORK.Process(target=work)
    child.start()
    return child


def ended(child: multiprocessing.Process, seconds: float | None) -> bool:
    """Wait so long for a process, and kill it then; say whether it ended by itself."""
    child.join(seconds)
    if not child.is_alive():
        return True
    child.kill()
    child.join()
    return False


def unit_vectors(texts: list[str]) -> np.ndarray:
    """Return vectors that are a function of the texts, of length 1."""
    drawn = [
        np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8) for text in texts
    ]
    vectors = np.stack(drawn).astype(np.float32) - 127.5
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- a server ---

REFUSALS = {"limit": 429, "error": 500, "gateway": 502, "busy": 503}
ANSWERS = [
    "drop",
    "half",
    "garbage",
    "one missing",
    "twice",
    "reversed",
    "not a number",
    "zeros",
    "narrow",
]


class Faulty(Server):
    """Answers well in two of three requests; what it did else stays in `faults`."""

    def __init__(self, seed: int) -> None:
        self.faults, self.rng, self.calm = Counter(), random.Random(seed), False
        self.answered: Counter[str] = Counter()
        super().__init__(unit_vectors, "m")
        self._http.handle_error = lambda *_: None  # of clients that were killed

    def answer(self, request, body, texts):
        kind = (
            None
            if self.calm or self.rng.random() > 1 / 3
            else self.rng.choice([*REFUSALS, *ANSWERS])
        )
        if kind:
            self.faults[f"server: {kind}"] += 1
        if kind in REFUSALS:
            return self.send(request, REFUSALS[kind], {"error": {"message": "not now"}})
        self.answered.update(texts)
        said = self.payload(body | {"encoding_format": "float"}, texts)
        data = said["data"]
        if kind == "one missing":
            data.pop(self.rng.randrange(len(data)))
        elif kind == "twice":
            data[-1] = data[0]
        elif kind == "reversed":  # the right vectors, each with its index
            data.reverse()
        elif kind in ("not a number", "zeros", "narrow"):
            wrong = {
                "not a number": [float("nan")] * WIDTH,
                "zeros": [0.0] * WIDTH,
                "narrow": [0.5] * (WIDTH // 2),
            }
            self.rng.choice(data)["embedding"] = wrong[kind]
        elif kind in ("drop", "half", "garbage"):
            content = json.dumps(said).encode()
            request.close_connection = True
            if kind != "drop":
                request.send_response(200)
                request.send_header("Content-Type", "application/json")
                request.send_header("Content-Length", str(len(content)))
                request.end_headers()
                request.wfile.write(
                    content[: len(content) // 2] if kind == "half" else b"<html>" + content[6:]
                )
            return request.connection.close()
        return self.send(request, 200, said)


def api_run(rng: random.Random, texts: list) -> dict:
    """Fill one cache from a faulty server, by processes of which some are killed."""
    from workbench.cache import TargetCache
    from workbench.errors import WorkbenchError
    from workbench.extras import api_teachers

    def teacher(url: str):
        return api_teachers.ApiTeacher(
            "m", url=url, dimensions=WIDTH, batch_size=16, attempts=4, name="faults"
        )

    def fill() -> None:
        api_teachers._growing = lambda _: 0.01  # the waits are tested elsewhere
        with contextlib.suppress(WorkbenchError):
            TargetCache(root, teacher(server.url)).fill(texts)

    with tempfile.TemporaryDirectory() as scratch, Faulty(rng.randrange(1 << 30)) as server:
        root = Path(scratch)
        for _ in range(rng.randint(3, 6)):
            server.faults["server: client killed"] += not ended(start(fill), rng.uniform(0.3, 2))
        server.calm = True
        start(fill).join()
        cache = TargetCache(root, teacher(server.url))
        missing, wrong = len(cache.missing(texts)), 0
        if not missing:
            expected = unit_vectors([text.text for text in texts])
            wrong = int((np.einsum("nd,nd->n", cache.targets(texts)[:], expected) < 0.999).sum())
        repeated = sum(server.answered[text.text] - 1 for text in texts)
        return {
            "texts": len(texts),
            "lost": missing + wrong,
            "repeated": repeated,
            "faults": server.faults,
        }


# --- the hub ---


def hub_runs(runs: int, seed: int) -> list[dict]:
    """Run `hub_run` so often, in a process of its own; `tests` must be importable."""
    command = [sys.executable, "-m", "bench.faults_outside", "hub", str(runs), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    if done.returncode:
        raise SystemExit(f"the runs with a hub failed:\n{done.stderr[-3000:]}")
    return [
        run | {"faults": Counter(run["faults"])}
        for run in map(json.loads, done.stdout.splitlines())
    ]


def hub_run(rng: random.Random, server: local_hub.Hub, cache: Path) -> dict:
    """Resolve a model of two revisions, while its downloads are cut, killed and damaged, and its main revision moves."""
    from huggingface_hub import constants

    from workbench import models
    from workbench.errors import ModelError

    faults: Counter[str] = Counter()
    versions = [
        {
            "config.json": json.dumps({"model_type": "bert", "number": number}).encode(),
            "modules.json": json.dumps(
                [
                    {
                        "idx": 0,
                        "name": "0",
                        "path": "",
                        "type": "sentence_transformers.models.Transformer",
                    }
                ]
            ).encode(),
            "tokenizer.json": rng.randbytes(3000),
            "model.safetensors": rng.randbytes(60_000),
            "1_Pooling/config.json": json.dumps(
                {"pooling_mode_mean_tokens": True, "number": number}
            ).encode(),
        }
        for number in range(2)
    ]
    name, lost = f"me/model-{rng.randrange(1 << 30)}", 0
    server.add(name, versions[0])
    shutil.rmtree(cache, ignore_errors=True)
    assert Path(constants.HF_HUB_CACHE).is_relative_to(cache)

    def resolved(seconds: float | None = None) -> str | None:
        here, there = _FORK.Pipe()

        def resolve() -> None:
            with contextlib.redirect_stderr(None), contextlib.suppress(ModelError):
                there.send(str(models.resolve(name).path))

        ended(start(resolve), seconds)
        return here.recv() if here.poll() else None

    def is_whole(folder: str) -> bool:
        return local_hub.contents(folder) in versions

    for _ in range(rng.randint(6, 12)):
        kind = rng.choice(["cut", "cut", "kill", "delete", "moved"])
        faults[f"hub: {kind}"] += 1
        seconds = None
        server.cut.clear()
        if (
            kind in ("cut", "kill") and rng.random() < 0.7
        ):  # else what an interrupted download has left is gone on with
            shutil.rmtree(cache, ignore_errors=True)
        if kind == "cut":
            path = rng.choice([*versions[0]])
            server.cut[path] = rng.randrange(len(versions[0][path]))
        elif kind == "kill":
            seconds = rng.uniform(0.01, 0.3)
        elif kind == "moved":
            server.add(name, rng.choice(versions))
        elif kind == "delete":
            files = [
                path
                for path in cache.rglob("*")
                if path.is_symlink() or path.suffix == ".incomplete"
            ]
            if files:
                rng.choice(files).unlink()
        found = resolved(seconds)
        lost += bool(found) and not is_whole(found)
    server.cut.clear()
    found = resolved()
    return {
        "texts": 0,
        "lost": lost + (not found or not is_whole(found)),
        "repeated": 0,
        "faults": faults,
    }


def serve_hub(runs: int, seed: int) -> None:
    with local_hub.serve() as server, tempfile.TemporaryDirectory() as scratch:
        os.environ |= local_hub.surroundings(server, Path(scratch))
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
        rng = random.Random(seed)
        for _ in range(runs):
            print(json.dumps(hub_run(rng, server, Path(os.environ["HF_HOME"]))), flush=True)


# --- the page ---

KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"

CELL = """
import numpy as np, time
from workbench.widgets import AgreementExplorer
rng = np.random.default_rng(0)
teacher = rng.standard_normal((200, 32)).astype('float32')
student = (teacher + .4 * rng.standard_normal(teacher.shape)).astype('float32')
view = AgreementExplorer({'teacher': teacher, 'student': student}, [f'text {i}' for i in range(200)], umap=False)
view
"""


def view_run(rng: random.Random, faults_wanted: int = 40) -> dict:
    """Disturb a page with a view between two selections; each has to be in the kernel, on the map and in the table."""
    from playwright.sync_api import TimeoutError

    from tests.lab import Lab, lit, painted

    def opened_again(page):
        page.goto(page.url.replace("&reset", ""))
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        )
        return page.context.new_cdp_session(page)

    faults: Counter[str] = Counter()
    lost = 0
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(Path(scratch))
        notebook = lab.open("faults", [CELL])
        page = notebook.page
        page.set_default_timeout(60_000)
        session = page.context.new_cdp_session(page)
        notebook.run_all()
        notebook.save()
        for _ in range(faults_wanted):
            kind = rng.choice(
                ["reload", "connection", "frozen", "slow", "busy", "scrolled away", "interrupted"]
            )
            faults[f"page: {kind}"] += 1
            rows = sorted(rng.sample(range(200), rng.randint(1, 60)))
            before = ""
            if kind == "connection":
                page.context.set_offline(True)
                page.wait_for_timeout(rng.uniform(100, 1500))
                page.context.set_offline(False)
                page.wait_for_function(f"() => {KERNEL}.connectionStatus === 'connected'")
            elif kind == "frozen":
                session.send("Page.setWebLifecycleState", {"state": "frozen"})
                time.sleep(rng.uniform(0.1, 1.5))
                session.send("Page.setWebLifecycleState", {"state": "active"})
            elif kind == "slow":
                session.send("Emulation.setCPUThrottlingRate", {"rate": 6})
            elif kind == "busy":
                before = f"time.sleep({rng.uniform(0.2, 2):.2f}) or "
            elif kind == "scrolled away":
                page.evaluate("() => document.querySelector('.workbench').style.display = 'none'")
            elif kind == "interrupted":
                with contextlib.suppress(AssertionError):  # the cell that is interrupted
                    page.evaluate(f"() => {{ setTimeout(() => {KERNEL}.interrupt(), 300); }}")
                    notebook.python("time.sleep(5) or 1")
            notebook.python(f"{before}view.select({rows}) or 1")
            if kind == "scrolled away":
                page.evaluate("() => document.querySelector('.workbench').style.display = ''")
            elif kind == "reload":
                session = opened_again(page)
            try:
                lit(page, len(rows))
                deadline = time.monotonic() + 30
                while painted(page) != [""]:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"not painted: {painted(page)}")
                    page.wait_for_timeout(200)
                lost += notebook.python("[int(row) for row in view.selected]") != rows
            except TimeoutError as error:  # it never came
                print(f"lost after {kind}: {str(error).splitlines()[0]}", file=sys.stderr)
                lost += 1
                session = opened_again(page)
            session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        notebook.close()
        lab.close()
    return {"texts": 0, "lost": lost, "repeated": 0, "faults": faults}


if __name__ == "__main__":
    serve_hub(int(sys.argv[2]), int(sys.argv[3]))
