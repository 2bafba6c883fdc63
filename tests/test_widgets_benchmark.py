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
    return benchmark.EvalModel(
        label, name, name, 16, lambda texts, role: teacher.encode(list(texts), role)
    )


@pytest.fixture
def board(task_folders, tmp_path):
    found = tasks.tasks([task_folders / "search", task_folders / "alike"])
    board = BenchmarkBoard(
        [model("teacher", "large"), model(NASTY, "small")],
        found,
        tmp_path,
        aliases={"search": "SciFact"},
    )
    yield board
    board.close()


def test_runs_what_is_picked_and_shows_it(board):
    assert "No task" in board.summary()
    board.models.value = ("teacher",)
    board.tasks.value = ("search",)
    assert (
        len(board.run()) == 1 and len(board.chart.figure.data) == 0
    )  # nothing to hold against the teacher yet
    assert len(board.run(["teacher", NASTY], ["search", "alike"])) == 4
    assert (
        board.bar.value == 1
        and "4 evaluations done" in board.status.value
        and not board.run_button.disabled
    )
    assert list(board.scores.index) == ["search", "alike"] and len(board.outcomes) == 4
    (trace,) = board.chart.figure.data
    shares = board.differences.set_index("task")["share_of_teacher"]
    np.testing.assert_allclose(trace.x, shares[["search", "alike"]])
    assert (
        NASTY not in board.summary() and NASTY not in trace.name and NASTY not in board.status.value
    )


def test_published_scores_stand_beside_and_averages_apart(board):
    board.run()
    board.view.value = "beside published scores"
    names = [trace.name for trace in board.chart.figure.data]
    assert "all-mpnet-base-v2" in names and "teacher (here)" in names
    assert list(board.chart.figure.layout.yaxis.ticktext) == ["SciFact"]
    board.view.value = "beside published averages"
    rows = list(board.chart.figure.layout.yaxis.ticktext)
    assert "BEIR, 14 sets, mean by task" in rows and "BEIR, 15 sets, mean by task" in rows
    assert (
        "MTEB(eng, v2), mean by task" in rows and rows.count("MTEB(eng, v2), mean by kind") == 2
    )  # paper, card
    assert not [
        trace for trace in board.chart.figure.data if "(here)" in trace.name
    ]  # two tasks are no benchmark


def test_own_averages_need_every_task_of_the_row(board):
    known = board._published
    names = set(known.loc[(known["benchmark"] == "BEIR") & known["task"].notna(), "task"])
    outcome = benchmark.TaskResult
    board.outcomes = [
        outcome(name, "Retrieval", "ndcg_at_10", "mine", 0.5) for name in names - {"MSMARCO"}
    ]
    assert board._own_average("mine", "BEIR, 14 sets", "by task") == 0.5
    assert board._own_average("mine", "BEIR, 15 sets", "by task") is None
    assert board._own_average("mine", "MTEB(eng, v2)", "by kind") is None
    board.view.value = "beside published averages"
    assert [trace.name for trace in board.chart.figure.data if "(here)" in trace.name] == [
        "mine (here)"
    ]


def test_a_click_runs_in_the_background_and_stop_ends_it(board):
    board.stop_button.click()
    board.run_button.click()
    assert len(board.wait(60)) == 4
    assert len(board.outcomes) == 4 and "done" in board.status.value
    block, begun = threading.Event(), threading.Event()
    slow = model("slow", "slow")

    def embed(texts, role):
        begun.set()
        block.wait(30)
        return slow.embed(texts, role)

    wait = benchmark.EvalModel("slow", "slow", "slow", 16, embed)
    board._models["slow"] = wait
    board.models.options = [*board.models.options, ("slow", "slow")]
    board.models.value = ("slow",)
    board.run_button.click()
    assert begun.wait(30)  # stopped any earlier, the run is over before it has begun
    board.stop_button.click()
    with pytest.raises(WorkbenchError, match="is running"):
        board.run()
    block.set()
    with pytest.raises(benchmark.Stopped, match="stopped after 0 of 2"):
        board.wait(60)
    assert "stopped after 0 of 2" in board.status.value and not board.run_button.disabled


def test_refuses(board, task_folders, tmp_path):
    found = tasks.tasks([task_folders / "search"])
    with pytest.raises(WorkbenchError, match="at least one model"):
        BenchmarkBoard([], found, tmp_path)
    with pytest.raises(WorkbenchError, match="share a label"):
        BenchmarkBoard([model("teacher", "a"), model("teacher", "b")], found, tmp_path)
    with pytest.raises(WorkbenchError, match="'nobody' is not on this board"):
        board.run(["nobody"])


def test_leaves_a_page(board, tmp_path):
    board.run()
    page = board.to_html(tmp_path / "page.html")
    assert "search" in page and NASTY not in page
