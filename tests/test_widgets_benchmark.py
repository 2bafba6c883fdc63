import threading

import numpy as np
import pytest

from tests.conftest import HashTeacher
from workbench.errors import WorkbenchError
from workbench.extras import benchmark, tasks
from workbench.widgets import BenchmarkBoard

pytest.importorskip("mteb")
NASTY = "<img src=x onerror=alert(1)>"


def model(label: str, name: str) -> benchmark.EvalModel:
    teacher = HashTeacher(16, name)

    def embed(texts, role):
        return teacher.encode(list(texts), role or "document")

    return benchmark.EvalModel(label, name, name, 16, embed)


@pytest.fixture
def board(task_folders, tmp_path):
    models = [model("teacher", "large"), model(NASTY, "small")]
    folders = [task_folders / "search", task_folders / "alike"]
    return BenchmarkBoard(models, tasks.tasks(folders), tmp_path)


def test_runs_what_is_selected_and_shows_it(board):
    board.models.label, board.tasks.label = ("teacher",), ("search",)
    assert len(board.run()) == 1
    assert len(board.chart.figure.data) == 0  # nothing to compare with the teacher yet
    board.models.index = board.tasks.index = (0, 1)
    assert len(board.run()) == 4 and len(board.outcomes) == 4
    assert board.bar.value == 1 and "4 evaluations" in board.status.value
    assert not board.run_button.disabled
    (trace,) = board.chart.figure.data
    shares = benchmark.differences(board.outcomes.values())["share_of_teacher"]
    np.testing.assert_allclose(trace.x, shares)
    assert list(board.chart.figure.layout.yaxis.ticktext) == ["search", "alike"]
    for text in (trace.name, board.summary(), board.status.value, board.to_html()):
        assert NASTY not in text


def test_a_click_runs_in_the_background_and_stop_ends_it(board):
    go_on, begun = threading.Event(), threading.Event()

    def embed(texts, role):
        begun.set()
        go_on.wait(30)
        return np.ones((len(texts), 16), np.float32)

    board.models.options = [("slow", benchmark.EvalModel("slow", "slow", "slow", 16, embed))]
    board.models.index = (0,)
    board.run_button.click()
    assert begun.wait(30)
    board.stop_button.click()
    with pytest.raises(WorkbenchError, match="running"):
        board.run()
    go_on.set()
    with pytest.raises(benchmark.Stopped):
        board.wait(60)
    assert "0 of 2" in board.status.value and not board.run_button.disabled
