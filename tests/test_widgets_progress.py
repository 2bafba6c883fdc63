"""The views of a fill and of a training: what they say after events, and that their buttons work."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import HashTeacher, sentences

from workbench import models, student
from workbench.cache import Progress, TargetCache
from workbench.errors import TeacherError, WorkbenchError
from workbench.train import TrainingConfig, TrainingStep, train_student
from workbench.widgets import CacheProgress, TrainingMonitor

EVIL = "<script>alert(1)</script>"
FAST = TrainingConfig(batch_size=8, learning_rate=2e-3, epochs=2, restarts=1, precision="float32")


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


def test_a_fill_in_a_cell_is_shown_to_its_end(tmp_path, hash_teacher):
    view, texts = CacheProgress("<b>mine</b>"), sentences(700)
    cache = TargetCache(tmp_path, hash_teacher)
    reports = {"on_plan": view.plan, "on_progress": view.progress, "stop": view.stop}
    with view:
        last = cache.fill([*texts, *texts[:50]], **reports)
    summary = view.summary()
    assert "750 of 750 texts" in summary and "700 of 700 encoded" in summary
    assert "50 hits" in summary and f"{last.bytes / 1e6:,.1f} MB stored" in summary
    assert "Done" in summary and "left" not in summary and view.status.value == summary
    assert "<b>mine</b>" not in summary and "&lt;b&gt;mine" in summary
    assert view.bar.value == 1 and view.stop_button.disabled and view.resume_button.disabled
    assert "750 of 750" in view.to_html()
    view.stop_button.click()
    with view:
        assert cache.fill(sentences(2000), **reports).done < 2000
    assert "Stopped" in view.summary() and view.stop_button.disabled
    view.resume_button.click()
    assert not view.stop.is_set() and not view.stop_button.disabled
    with view:
        cache.fill(iter(sentences(2500)), on_progress=view.progress)  # a stream has no total
    assert "2,500 texts" in view.summary() and "Done" in view.summary()
    with pytest.raises(ValueError, match="script"), view:
        raise ValueError(EVIL)
    assert "Failed" in view.summary() and "<script>" not in view.summary()


def test_resume_goes_on_and_encodes_nothing_twice(tmp_path):
    view, texts, teacher = CacheProgress(), sentences(2000), GatedTeacher()
    cache = TargetCache(tmp_path, teacher)
    view.run(cache, texts)
    assert teacher.waiting.wait(10)
    with pytest.raises(WorkbenchError, match="running"):
        view.run(cache, texts)
    view.stop_button.click()
    assert view.resume_button.disabled  # the fill has not ended yet
    teacher.open.set()
    stopped = view.wait(10)
    assert 0 < stopped.done < stopped.total and "Stopped" in view.summary()
    assert view.stop_button.disabled
    view.resume_button.click()
    assert view.wait(10).done == 2000
    assert "Done" in view.summary() and view.resume_button.disabled
    assert len(teacher.encoded) == len(set(teacher.encoded)) == 2000
    with pytest.raises(WorkbenchError, match="list"):
        view.run(cache, iter(texts))


def test_what_a_fill_raises_is_shown_escaped_and_raised_by_wait(tmp_path):
    view, teacher = CacheProgress(), GatedTeacher(TeacherError(EVIL))
    with pytest.raises(WorkbenchError, match="run"):
        view.wait()
    teacher.open.set()
    view.run(TargetCache(tmp_path, teacher), sentences(700))
    with pytest.raises(TeacherError, match="script"):
        view.wait(10)
    for text in (view.summary(), view.to_html()):
        assert "<script>alert" not in text and "TeacherError: &lt;script&gt;" in text
    teacher.error = None
    view.resume_button.click()
    assert view.wait(10).done == 700 and "script" not in view.summary()


def test_an_error_in_the_view_does_not_reach_the_work(monkeypatch):
    for view in (CacheProgress(), TrainingMonitor()):
        monkeypatch.setattr(view, "_draw", lambda: 1 / 0)
        monkeypatch.setattr(view, "_drawn", -100.0)
        report = view if isinstance(view, TrainingMonitor) else view.plan
        report(event(0))
        assert "division" in view.status.value


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
            view.progress(Progress(i, 1000, i, 1000, i, 10.0))
            view.stop_button.click() if i % 2 else view.resume_button.click()
            monitor(event(i, 1000, held_out_loss=0.5))
            monitor.stop_button.click()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(4)))
    with view:
        view.progress(Progress(1000, 1000, 1000, 1000, 9, 10.0))
    assert "1,000 of 1,000" in view.summary()
    assert monitor.history["step"].tolist() == list(range(400)) and monitor.stop.is_set()


# --- a training ---


def event(step, steps=100, **figures):
    figures = {"loss": 1 / step if step else None, "texts_per_second": 50.0} | figures
    return TrainingStep(step, steps, epoch=step / 10, learning_rate=1e-4, **figures)


def curve(monitor, name):
    return next(trace for trace in monitor.chart.figure.data if name in trace.name)


@pytest.mark.parametrize("stop_at", [None, 20])
def test_a_training_is_shown_to_its_end(tiny_model, other_tiny_model, stop_at):
    teacher = models.load(other_tiny_model, device="cpu")
    train, held_out = sentences(240, seed=3), sentences(60, seed=4)
    targets, wanted = (teacher.encode([t.text for t in texts]) for texts in (train, held_out))
    monitor = TrainingMonitor({"closed form": 0.01, EVIL: 9.0})

    def on_step(step):
        monitor(step)
        if step.step == stop_at:
            with ThreadPoolExecutor(1) as pool:  # as a click in a notebook, from another thread
                pool.submit(monitor.stop_button.click).result(5)
            assert "Stopping" in monitor.status.value

    model = student.build(tiny_model, 48, max_length=40, device="cpu")
    held_out = held_out, wanted
    with monitor:
        result = train_student(
            model, train, targets, FAST, held_out=held_out, on_step=on_step, stop=monitor.stop
        )
    last = stop_at or 60
    assert result.stopped == (last < 60) and ("Stopped" in monitor.summary()) == result.stopped
    assert monitor.stop_button.disabled and monitor.bar.value == pytest.approx(last / 60)
    assert f"best {result.best_loss:.4f} at step {result.best_step}" in monitor.summary()
    assert monitor.summary().count("(beaten)") == 1 and "<script" not in monitor.summary()
    assert "<script>alert" not in monitor.to_html()
    np.testing.assert_allclose(monitor.history.astype(float), result.history.astype(float))
    assert list(curve(monitor, "each step").x) == list(range(1, last + 1))
    held_out_steps = monitor.history["held_out_loss"].dropna().index
    assert list(curve(monitor, "held-out").x) == list(held_out_steps)
    assert list(curve(monitor, "closed form").x) == [0, last]


def test_long_runs_are_thinned_and_smoothed():
    monitor = TrainingMonitor()
    for step in range(5000):
        monitor(event(step, 6000, held_out_loss=1.0, loss=(step % 2) if step else None))
    with monitor:
        pass
    assert len(monitor.history) == 5000 and "Stopped" in monitor.summary()
    for name in ("each step", "smoothed", "held-out", "learning rate"):
        assert 400 < len(curve(monitor, name).x) <= 500 and curve(monitor, name).x[-1] == 4999
    assert curve(monitor, "smoothed").y[-1] == pytest.approx(0.5, abs=0.05)


def test_a_resumed_run_goes_on_and_a_new_one_starts_afresh():
    monitor = TrainingMonitor()
    for step in (*range(6), 4):  # again from the checkpoint of step 3
        monitor(event(step, held_out_loss=2.0 - step / 10))
    assert monitor.history["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert "step 4 of 100" in monitor.summary() and "at step 5" in monitor.summary()
    monitor(event(0, 7))
    assert len(monitor.history) == 1 and "Training." in monitor.summary()
