"""The views of a fill and of a training: what they say after events, and that their buttons work."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from unittest.mock import Mock

import pytest
from conftest import HashTeacher, sentences

from workbench import models, student
from workbench.cache import Progress, TargetCache
from workbench.errors import TeacherError, WorkbenchError
from workbench.train import TrainingConfig, TrainingStep, train_student
from workbench.widgets import CacheProgress, TrainingMonitor

EVIL = "<script>alert(1)</script>"
FAST = TrainingConfig(batch_size=8, learning_rate=2e-3, epochs=2, restarts=1, precision="float32")


def at_second_group(monkeypatch, teacher, action):
    def encode(texts, role, *, stop=None):
        if len(teacher.encoded) > 100:
            action()
        return HashTeacher.encode(teacher, texts, role)

    monkeypatch.setattr(teacher, "encode", encode)


def test_a_fill_is_shown_stopped_and_resumed(tmp_path, hash_teacher, monkeypatch):
    view, texts = CacheProgress(), sentences(2000)
    cache, waiting, go_on = TargetCache(tmp_path, hash_teacher), Event(), Event()
    at_second_group(monkeypatch, hash_teacher, lambda: waiting.set() or go_on.wait(10))
    with pytest.raises(WorkbenchError, match="start"):
        view.wait()
    view.start(cache, [*texts, *texts[:50]])
    assert waiting.wait(10)
    with pytest.raises(WorkbenchError, match="running"):
        view.start(cache, texts)
    view.stop_button.click()
    assert view.resume_button.disabled  # the fill has not ended yet
    go_on.set()
    stopped = view.wait(10)
    assert 0 < stopped.done < stopped.total and "Stopped" in view.summary()
    assert view.stop_button.disabled
    view.resume_button.click()
    last, summary = view.wait(10), view.summary()
    assert "2,050 of 2,050 texts" in summary and f"{last.encoded:,} of {last.encoded:,}" in summary
    assert f"{last.hits:,} hits" in summary
    assert "Done" in summary and "left" not in summary and view.status.value == summary
    assert view.bar.value == 1 and view.stop_button.disabled and view.resume_button.disabled
    assert "2,050 of 2,050" in view.to_html()
    assert len(hash_teacher.encoded) == len(set(hash_teacher.encoded)) == 2000


def test_what_a_fill_raises_is_shown_escaped_and_raised_by_wait(
    tmp_path, hash_teacher, monkeypatch
):
    view, failing = CacheProgress(), Mock(side_effect=TeacherError(EVIL))
    at_second_group(monkeypatch, hash_teacher, failing)
    view.start(TargetCache(tmp_path, hash_teacher), sentences(700))
    with pytest.raises(TeacherError, match="script"):
        view.wait(10)
    for text in (view.summary(), view.to_html()):
        assert "<script>alert" not in text and "TeacherError: &lt;script&gt;" in text
    failing.side_effect = None
    view.resume_button.click()
    assert view.wait(10).done == 700 and "script" not in view.summary()


def test_an_error_in_the_view_does_not_reach_the_work(monkeypatch):
    monitor = TrainingMonitor()
    monkeypatch.setattr(monitor, "_draw", lambda: 1 / 0)
    monitor(event(0))
    drawn_soon(monitor)
    assert "division" in monitor.status.value


REPORTS = {
    TrainingMonitor: lambda view, step: view(event(step, 1000)),
    CacheProgress: lambda view, step: view._progressed(Progress(step, 1000, 0, 1000, 10.0)),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_the_last_of_many_reports_is_shown_while_the_work_goes_on(kind):
    view, shown = kind(), []

    def work():
        for step in range(801):
            REPORTS[kind](view, step)
        drawn_soon(view)
        shown.append(view.status.value)

    view._start(work)
    view.wait(60)
    assert "800 of 1,000" in shown[0]


def test_a_training_that_was_not_started_by_the_monitor_is_shown_too():
    monitor = TrainingMonitor()
    for step in range(101):
        monitor(event(step))
    drawn_soon(monitor)
    assert monitor.status.value.startswith("Finished") and "step 100 of" in monitor.status.value


def drawn_soon(view):
    if waits := view._waits:
        waits.join(30)


def test_clicks_go_to_the_shell_that_the_browser_asks_for_and_not_to_the_one_that_is_busy():
    pytest.importorskip("ipykernel.ipkernel")  # from here on, widgets talk as they do in a kernel
    view, monitor = CacheProgress(), TrainingMonitor()
    for button in (view.stop_button, view.resume_button, monitor.stop_button):
        button.comm._reply_subshell_id = None  # as after use by a cell, in the main shell
        assert button.comm._reply_subshell_for({"method": "custom"}, "subshell") == "subshell"


def test_reports_and_clicks_from_several_threads():
    view, monitor = CacheProgress(), TrainingMonitor()

    def report(start):
        for i in range(start, 400, 4):
            view._progressed(Progress(i, 1000, i, 1000, 10.0))
            view.stop_button.click() if i % 2 else view.resume_button.click()
            monitor(event(i, 1000, held_out_loss=0.5))
            monitor.stop_button.click()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(4)))
    view._progressed(Progress(1000, 1000, 1000, 1000, 10.0))
    assert "1,000 of 1,000" in view.summary()
    assert monitor.stop.is_set()
    monitor.run(lambda: None)
    assert x(monitor, "each step") == list(range(1, 400))


# --- a training ---


def event(step, steps=100, **figures):
    figures = {"loss": 1 / step if step else None, "texts_per_second": 50.0} | figures
    return TrainingStep(step, steps, epoch=step / 10, learning_rate=1e-4, **figures)


def curve(monitor, name):
    return next(trace for trace in monitor.chart.figure.data if name in trace.name)


def x(monitor, name):
    return list(curve(monitor, name).x)


def test_a_training_is_shown_to_its_end(tiny_model, other_tiny_model):
    teacher = models.load_model(other_tiny_model, device="cpu")
    train, held_out = sentences(240, seed=3), sentences(60, seed=4)
    targets = teacher.encode([text.text for text in train])
    held_out_targets = teacher.encode([text.text for text in held_out])
    monitor = TrainingMonitor({"closed form": 0.01, EVIL: 9.0})
    model = student.build(tiny_model, 48, max_length=40, device="cpu")
    options = {"held_out": (held_out, held_out_targets), "on_step": monitor, "stop": monitor.stop}
    result = monitor.run(lambda: train_student(model, train, targets, FAST, **options))
    assert monitor.stop_button.disabled and monitor.bar.value == 1
    assert f"best {result.best_loss:.4f} at step {result.best_step}" in monitor.summary()
    assert monitor.summary().count("(beaten)") == 1 and "<script" not in monitor.summary()
    assert "<script>alert" not in monitor.to_html()
    history = result.history.set_index("step")
    for name, column in {"each step": "loss", "held-out": "held_out_loss"}.items():
        values = history[column].dropna()
        assert x(monitor, name) == list(values.index)
        assert list(curve(monitor, name).y) == pytest.approx(list(values))
    assert [line.y0 for line in monitor.chart.figure.layout.shapes] == [0.01, 9.0]


def test_long_runs_are_thinned_and_smoothed():
    monitor = TrainingMonitor()

    def train():
        for step in range(5000):
            monitor(event(step, 6000, held_out_loss=1.0, loss=(step % 2) if step else None))
        raise ValueError(EVIL)

    with pytest.raises(ValueError, match="script"):
        monitor.run(train)
    assert "Failed" in monitor.summary() and "<script>" not in monitor.summary()
    for name in ("each step", "smoothed", "held-out"):
        assert 400 < len(x(monitor, name)) <= 500 and x(monitor, name)[-1] == 4999
    assert curve(monitor, "smoothed").y[-1] == pytest.approx(0.5, abs=0.05)


def test_a_resumed_run_goes_on_and_a_new_one_starts_afresh():
    monitor = TrainingMonitor()

    def train():
        for step in (*range(6), 4):  # again from the checkpoint of step 3
            monitor(event(step, held_out_loss=2.0 - step / 10))

    monitor.run(train)
    assert "step 4 of 100" in monitor.summary() and "at step 5" in monitor.summary()
    assert x(monitor, "held-out") == [0, 1, 2, 3, 4, 5]
    monitor.run(lambda: monitor(event(0, 7, held_out_loss=1.0)))
    assert "best 1.0000 at step 0" in monitor.summary()
