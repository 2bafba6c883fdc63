"""Progress bars for a terminal or a notebook."""

from __future__ import annotations

from tqdm.auto import tqdm

from workbench.cache import Plan, Progress
from workbench.train import TrainingStep


class _Bar:
    _bar: tqdm | None = None

    def _advance(self, done: int, total: int | None, what: str, unit: str, initial: int = 0) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, initial=initial, desc=what, unit=f" {unit}", mininterval=0.5)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class CacheBar(_Bar):
    """Shows a `TargetCache.fill`: pass `bar.plan` as on_plan and `bar.progress` as on_progress."""

    def __init__(self, what: str = "teacher") -> None:
        self.what = what

    def plan(self, plan: Plan) -> None:
        """Print the plan before the long part."""
        tqdm.write(f"{self.what}: {plan}")

    def progress(self, progress: Progress) -> None:
        """Advance the bar. It counts what the teacher encodes, not what was cached, so the time left is right."""
        self._advance(progress.encoded, progress.encoded_total, self.what, "texts")
        self._bar.set_postfix_str(f"{progress.bytes / 1e6:.1f} MB, {progress.hits:,} hits")


class TrainingBar(_Bar):
    """Shows a `train_student`: pass the bar itself as on_step."""

    def __call__(self, step: TrainingStep) -> None:
        """Advance the bar, and print a line for each held-out evaluation."""
        self._advance(step.step, step.steps, "student", "steps", step.step)
        if step.loss is not None:
            self._bar.set_postfix_str(f"loss {step.loss:.3f}, {step.texts_per_second:.0f} texts/s", refresh=False)
        if step.held_out_loss is not None:
            cosines = [
                f"cosine {value:.3f} on {role}"
                for role, value in (("queries", step.cosine_query), ("documents", step.cosine_document))
                if value is not None
            ]
            tqdm.write(f"epoch {step.epoch:4.2f}: held-out loss {step.held_out_loss:.4f}, {', '.join(cosines)}")
