import hashlib
import os
import signal
import sys
import threading
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import pytest
from conftest import HashTeacher, sentences

from workbench import _shards
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import DataError, WorkbenchError
from workbench.extras import cluster

ray = pytest.importorskip("ray", reason="Ray, of the extra `ray`, is not installed")
TEXTS = sentences(6000)


class LoggingTeacher(HashTeacher):
    """It writes down what it encodes, and the worker that comes to `deadly` first is killed there."""

    def __init__(self, log: Path, deadly: str = "") -> None:
        super().__init__()
        self.log, self.deadly = log, deadly

    def encode(self, texts, role, *, stop=None):
        died = self.log.with_suffix(".died")
        if self.deadly in texts and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.log.open("a") as file:
            for text in texts:
                digest = hashlib.md5(f"{role}{text}".encode()).hexdigest()
                file.write(f"{digest} {os.getpid()}\n")
        return super().encode(texts, role)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster():
    for module in (conftest, sys.modules[__name__]):  # the workers do not see this folder
        ray.cloudpickle.register_pickle_by_value(module)
    cluster.join_cluster(workers=2, gpus=0)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rows = pd.DataFrame({"text": [t.text for t in TEXTS], "role": [t.role.value for t in TEXTS]})
    rows.loc[len(rows)] = rows.loc[len(rows) + 1] = [None, "query"]
    rows[:2000].to_parquet(folder / "a.parquet")
    rows[2000:].assign(more=1).to_parquet(folder / "b.parquet")
    return folder


def test_a_worker_that_is_killed_costs_the_group_in_flight_and_nothing_else(tmp_path, folder):
    log = tmp_path / "log"
    seen = []

    def make():
        return LoggingTeacher(log, deadly=TEXTS[3000].text)

    done = cluster.fill(tmp_path, make, folder, workers=2, on_progress=seen.append)
    assert log.with_suffix(".died").exists()
    assert done.done == done.total == len(TEXTS) + 2 and len(seen) > 2
    lines = log.read_text().splitlines()
    encoded, processes = [line[:32] for line in lines], {line[33:] for line in lines}
    assert len(set(encoded)) == len(TEXTS) and len(encoded) - len(set(encoded)) <= 512
    assert len(processes) >= 2
    cache = TargetCache(tmp_path, HashTeacher())
    wanted = np.stack([HashTeacher().vector(t.text, t.role) for t in TEXTS]).astype(np.float16)
    np.testing.assert_array_equal(cache.targets(TEXTS)[:], wanted.astype(np.float32))
    assert len(_shards.listing(cache.folder)) == 1, "small shards are joined in the end"
    stop = threading.Event()
    options = {"on_progress": lambda _: stop.set(), "stop": stop}
    again = cluster.fill(tmp_path, make, folder, workers=1, **options)
    assert again.encoded == 0 and 0 < again.hits < len(TEXTS), "stopped after the first batch"


def test_a_teacher_that_fails_ends_the_fill_and_what_is_stored_stays(tmp_path, folder):
    class Failing(HashTeacher):
        def encode(self, texts, role, *, stop=None):
            vectors = super().encode(texts, role)
            vectors[[text == TEXTS[5000].text for text in texts]] = np.nan
            return vectors

    with pytest.raises(WorkbenchError, match="NaN or infinite"):
        cluster.fill(tmp_path, Failing, folder, workers=2)
    assert len(TargetCache(tmp_path, HashTeacher())) > 100


def test_blank_texts_are_left_out(tmp_path):
    rows = {"text": ["a", None, " ", "b"], "role": ["query", "query", None, None]}
    worker = cluster._Worker(str(tmp_path / "cache"), HashTeacher)
    done = worker({name: np.array(column, dtype=object) for name, column in rows.items()})
    assert done == {"done": [4], "encoded": [2], "error": [""]}
    assert not worker.cache.missing([Text("a", "query"), Text("b")])


def test_bad_input_is_noticed_before_any_work(tmp_path, folder):
    with pytest.raises(DataError, match="parquet"):
        cluster.fill(tmp_path, HashTeacher, tmp_path / "none")
    with pytest.raises(WorkbenchError, match="1000 workers"):
        cluster.fill(tmp_path, HashTeacher, folder, workers=1000)
