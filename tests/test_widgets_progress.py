"""The views of a fill and of a training: what they say after events, and that their buttons work."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import HashTeacher, sentences

from workbench import models, student
from workbench._util import file_size
from workbench.cache import Plan, Progress, TargetCache
from workbench.errors import TeacherError, WorkbenchError
from workbench.train import TrainingConfig, TrainingStep, train_student, validate
from workbench.widgets import CacheProgress, TrainingMonitor

EVIL = "<script>alert(1)</script>"
FAST = TrainingConfig(
    batch_size=8,
    learning_rate=2e-3,
    final_learning_rate=1e-4,
    epochs=2,
    restarts=1,
    precision="float32",
)


# --- a fill ---


class GatedTeacher(HashTeacher):
    """Waits before it encodes its second group until it is let through; then may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.waiting, self.open, self.error = threading.Event(), threading.Event(), error

    def encode(self, texts, role, *, stop=None):
        if len(self.encoded) > 100:
            self.waiting.set()
            assert self.open.wait(10)
            if self.error:
                raise self.error
        return super().encode(texts, role)


def test_a_fill_of_ones_own_is_shown_to_its_end(tmp_path, hash_teacher):
    view, texts = CacheProgress("<b>mine</b>"), sentences(700)
    cache = TargetCache(tmp_path, hash_teacher)
    last = cache.fill(
        [*texts, *texts[:50]], on_plan=view.plan, on_progress=view.progress, stop=view.stop
    )
    said = view.summary()
    assert "750 of 750 texts (100%)" in said and "700 of 700 encoded" in said and "50 hits" in said
    assert (
        f"{file_size(last.bytes)} stored" in said
        and f"{last.texts_per_second:,.0f} texts/s" in said
    )
    assert "Done" in said and "left" not in said and view.status.value == said
    assert "<b>mine</b>" not in said and "&lt;b&gt;mine" in said
    assert view.bar.value == 1 and view.stop_button.disabled and view.resume_button.disabled
    cache.fill(texts, on_plan=view.plan, on_progress=view.progress)
    assert "all 700 vectors are cached" in view.summary() and "Done" in view.summary()
    assert said.split(":")[0] in view.to_html()


def test_stop_ends_a_fill_of_ones_own_and_resume_takes_it_back(tmp_path):
    view, texts, teacher = CacheProgress(), sentences(2000), GatedTeacher()
    with ThreadPoolExecutor(1) as pool:
        cache = TargetCache(tmp_path, teacher)
        fill = pool.submit(
            cache.fill, texts, on_plan=view.plan, on_progress=view.progress, stop=view.stop
        )
        try:
            assert teacher.waiting.wait(10)
            view.stop_button.click()
            assert "Stopping" in view.summary() and not view.resume_button.disabled
        finally:
            teacher.open.set()
        assert fill.result(10).done < 2000
    assert "Stopped" in view.summary() and 0 < view.bar.value < 1 and view.stop_button.disabled
    view.resume_button.click()
    assert not view.stop.is_set() and "again" in view.summary() and not view.stop_button.disabled
    cache.fill(texts, on_plan=view.plan, on_progress=view.progress, stop=view.stop)
    assert "Done" in view.summary()


def test_resume_goes_on_and_encodes_nothing_twice(tmp_path):
    view, texts, teacher = CacheProgress(), sentences(2000), GatedTeacher()
    cache = TargetCache(tmp_path, teacher)
    view.run(cache, texts)
    assert teacher.waiting.wait(10)
    with pytest.raises(WorkbenchError, match="running"):
        view.run(cache, texts)
    with pytest.raises(WorkbenchError, match="still running"):
        view.wait(0.01)
    view.stop_button.click()
    assert view.resume_button.disabled  # the fill has not ended yet
    teacher.open.set()
    stopped = view.wait(10)
    assert 0 < stopped.done < stopped.total and "Stopped" in view.summary()
    assert not view.resume_button.disabled and view.stop_button.disabled
    view.resume_button.click()
    assert view.wait(10).done == 2000
    assert "Done" in view.summary() and not view.stop.is_set()
    assert view.resume_button.disabled
    # The first text is encoded once more in each run: it warms the teacher up before the sample is timed.
    assert len(teacher.encoded) == 2000 and len(set(teacher.encoded)) == 2000
    assert cache.targets(texts).shape == (2000, 16)


def test_what_a_fill_raises_is_shown_escaped_and_raised_by_wait(tmp_path):
    view, teacher = CacheProgress(), GatedTeacher(TeacherError(EVIL))
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(WorkbenchError, match="run"):
        view.wait()
    teacher.open.set()
    view.run(cache, sentences(700))
    with pytest.raises(TeacherError, match="script"):
        view.wait(10)
    for said in (view.summary(), view.status.value, view.to_html()):
        assert "<script>alert" not in said and "TeacherError: &lt;script&gt;" in said
    teacher.error = None
    view.resume_button.click()
    assert view.wait(10).done == 700 and "script" not in view.summary()
    with pytest.raises(WorkbenchError, match="pass a list"):
        view.run(cache, iter(sentences(3)))
    with pytest.raises(ValueError, match="x"), CacheProgress() as own:
        raise ValueError("x" + EVIL)
    assert "Failed" in own.summary() and "<script>" not in own.summary()


def test_streams_have_no_total_and_reports_do_not_break_the_fill(
    tmp_path, hash_teacher, monkeypatch
):
    view = CacheProgress()
    cache = TargetCache(tmp_path, hash_teacher)
    with view:
        cache.fill(iter(sentences(600)), on_plan=view.plan, on_progress=view.progress)
    assert "600 texts · 600 encoded" in view.summary() and "Done" in view.summary()
    view.plan(None)
    view.progress(Progress(1, None, None, None, None, None))
    monkeypatch.setattr(view, "_draw", lambda: 1 / 0)
    view.plan(Plan(3, 3, 3, 30))
    view.progress(Progress(1, 3, 1, 3, 10, 1.0))
    assert "division" in view.status.value


def test_clicks_go_to_the_shell_that_the_browser_asks_for_and_not_to_the_one_that_is_busy():
    pytest.importorskip("ipykernel.ipkernel")  # from here on, widgets talk as they do in a kernel
    view, monitor = CacheProgress(), TrainingMonitor()
    for button in (view.stop_button, view.resume_button, monitor.stop_button):
        button.comm._reply_subshell_id = None  # as after use by a cell, in the main shell
        assert button.comm._reply_subshell_for({"method": "custom"}, "subshell") == "subshell"


def test_reports_and_clicks_from_several_threads():
    view = CacheProgress()

    def report(start):
        for i in range(start, 400, 4):
            view.progress(Progress(i, 1000, i, 1000, i, 10.0))
            view.stop_button.click() if i % 2 else view.resume_button.click()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(4)))
    view.progress(Progress(1000, 1000, 1000, 1000, 9, 10.0))
    assert "1,000 of 1,000" in view.status.value and "Not shown" not in view.status.value


# --- a training ---


def event(step, steps=100, **figures):
    given = {
        "epoch": step / 10,
        "loss": 1 / step if step else None,
        "learning_rate": 1e-4,
        "texts_per_second": 50.0,
    }
    return TrainingStep(step, steps, **{**given, **figures})


def curve(monitor, name):
    return next(trace for trace in monitor.chart.figure.data if name in trace.name)


@pytest.fixture(scope="module")
def lesson(tiny_model, other_tiny_model):
    teacher = models.load(other_tiny_model, device="cpu")
    train, held_out = sentences(240, seed=3), sentences(60, seed=4)
    return (
        train,
        teacher.encode([t.text for t in train]),
        held_out,
        teacher.encode([t.text for t in held_out]),
    )


def build(tiny_model):
    return student.build(tiny_model, 48, max_length=40, device="cpu")


def test_a_training_is_shown_to_its_end(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    monitor = TrainingMonitor({"closed form": 0.01, "at random": 9.0})
    result = train_student(
        build(tiny_model),
        train,
        targets,
        FAST,
        held_out=(held_out, wanted),
        on_step=monitor,
        stop=monitor.stop,
    )
    assert (
        "Finished" in monitor.summary() and monitor.stop_button.disabled and monitor.bar.value == 1
    )
    assert f"student of step {result.best_step} is kept" in monitor.summary()
    assert f"best {result.best_loss:.4f}" in monitor.summary()
    assert "closed form 0.0100" in monitor.summary() and monitor.summary().count("(beaten)") == 1
    assert "at random 9.0000 (beaten)" in monitor.summary()
    history = monitor.history
    assert history["step"].tolist() == list(range(61))
    np.testing.assert_allclose(history.astype(float), result.history.astype(float))
    assert list(curve(monitor, "each step").x) == list(range(1, 61))
    assert list(curve(monitor, "held-out").x) == [0, 15, 30, 45, 60]
    assert list(curve(monitor, "queries").y) == history["cosine_query"].dropna().tolist()
    assert (
        list(curve(monitor, "closed form").x) == [0, 60]
        and curve(monitor, "closed form").y[0] == 0.01
    )
    assert set(curve(monitor, "learning rate").y) == set(history["learning_rate"][1:])
    monitor.finished(result)
    assert "Finished" in monitor.summary()
    assert monitor.figures() == [monitor.chart.figure] and "closed form" in monitor.to_html()


def test_stop_ends_training_between_steps_and_keeps_the_best(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    monitor, model = TrainingMonitor(), build(tiny_model)

    def until_stopped(event):
        monitor(event)
        if event.step == 20:
            with ThreadPoolExecutor(1) as pool:  # as a click in a notebook, from another thread
                pool.submit(monitor.stop_button.click).result(5)
            assert "Stopping" in monitor.status.value and monitor.stop_button.disabled

    result = train_student(
        model,
        train,
        targets,
        FAST,
        held_out=(held_out, wanted),
        on_step=until_stopped,
        stop=monitor.stop,
    )
    monitor.finished(result)
    assert result.stopped and monitor.history["step"].max() == 20
    assert f"Stopped: the student of step {result.best_step} is kept" in monitor.summary()
    assert validate(model, held_out, wanted)["loss"] == pytest.approx(result.best_loss, rel=1e-3)
    assert monitor.stop_button.disabled and monitor.bar.value == pytest.approx(20 / 60)
    assert list(curve(monitor, "each step").x) == list(range(1, 21))


def test_odd_events_neither_break_the_monitor_nor_the_training():
    monitor = TrainingMonitor()
    monitor(event(0, learning_rate=None, texts_per_second=None))
    monitor(
        event(1, steps=None, epoch=None, loss=math.nan, held_out_loss=None, cosine_query=math.inf)
    )
    monitor(event(2, loss="x", held_out_loss=0.5))
    monitor(event(3, loss=0.25))
    assert (
        "held-out loss 0.5000" in monitor.summary() and "training loss 0.2500" in monitor.summary()
    )
    monitor(replace(event(4), step=None))
    monitor(replace(event(4), step="4"))
    monitor(None)
    assert monitor.history["step"].tolist() == [0, 1, 2, 3]
    assert "Not all could be shown" in monitor.summary()
    monitor.figures()
    assert list(curve(monitor, "each step").y) == [0.25]
    monitor.finished(None)
    assert "Stopped" in monitor.summary()


def test_an_error_in_drawing_or_training_is_shown_escaped(monkeypatch):
    monitor = TrainingMonitor({EVIL: 0})
    with pytest.raises(ValueError, match="script"), monitor:
        monitor(event(0))
        raise ValueError(EVIL)
    assert "Failed" in monitor.summary() and "ValueError: &lt;script&gt;" in monitor.summary()

    def broken():
        raise RuntimeError(EVIL)

    monkeypatch.setattr(monitor, "_draw", broken)
    monkeypatch.setattr(monitor, "_drawn", -100.0)
    monitor(event(1))
    assert len(monitor.history) == 2
    assert "Not all could be shown: &lt;script&gt;" in monitor.status.value
    monkeypatch.undo()
    for said in (monitor.summary(), monitor.status.value):
        assert "<script" not in said
    assert (
        "<script>alert" not in monitor.to_html()
        and "<script" not in curve(monitor, "script").text[1]
    )
    for wrong in (math.nan, None, "low"):
        with pytest.raises(WorkbenchError, match="ceiling"):
            TrainingMonitor({"ceiling": wrong})


def test_long_runs_are_thinned_and_drawn_seldom(monkeypatch):
    monitor, messages = TrainingMonitor(), []
    monkeypatch.setattr(monitor.chart, "put", lambda **_: messages.append(time.monotonic()))
    started = time.monotonic()
    for step in range(5000):
        monitor(event(step, 6000, held_out_loss=1.0))
    monitor.finished()
    assert len(messages) <= (time.monotonic() - started) / 0.33 + 2
    assert len(monitor.history) == 5000
    for name in ("each step", "smoothed", "held-out", "learning rate"):
        assert 400 < len(curve(monitor, name).x) <= 500 and curve(monitor, name).x[-1] == 4999


def test_the_smoothed_loss_is_a_mean_at_first_and_then_follows():
    monitor = TrainingMonitor()
    for step, loss in enumerate((None, 4.0, 2.0, 3.0)):
        monitor(event(step, loss=loss))
    monitor.figures()
    assert list(curve(monitor, "smoothed").y) == pytest.approx([4, 3, 3])
    for step in range(4, 60):
        monitor(event(step, loss=1.0))
    monitor.figures()
    assert curve(monitor, "smoothed").y[-1] == pytest.approx(1, abs=0.01)


def test_a_resumed_run_goes_on_and_a_new_one_starts_afresh():
    monitor = TrainingMonitor()
    for step in range(6):
        monitor(event(step, held_out_loss=2.0 - step / 10))
    monitor(event(4, held_out_loss=1.0))  # from the checkpoint of step 3
    assert monitor.history["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert monitor.history["held_out_loss"][4] == 1.0 and "step 4 of 100" in monitor.summary()
    monitor.finished()
    assert "step 4 is kept" in monitor.summary()
    monitor(replace(event(0), steps=7))
    assert len(monitor.history) == 1 and "Training." in monitor.summary()
    monitor.figures()
    assert not len(curve(monitor, "held-out").x)


def test_events_and_clicks_from_several_threads():
    monitor = TrainingMonitor({"line": 1.0})

    def report(start):
        for step in range(start, 2001, 4):
            monitor(event(step, 3000, held_out_loss=0.5))
            if step % 50 == 0:
                monitor.stop_button.click()
                monitor.figures()
                monitor.summary()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(1, 5)))
    assert monitor.history["step"].tolist() == list(range(1, 2001))
    assert "Not all" not in monitor.summary() and monitor.stop.is_set()
