"""Progress in a terminal or a notebook: texts a second, time left, figures as they come."""

from __future__ import annotations

from tqdm.auto import tqdm

from workbench.cache import Plan, Progress
from workbench.train import TrainingStep


class CacheBar:
    """Shows a `TargetCache.fill`: pass `bar.plan` as on_plan and `bar.progress` as on_progress."""

    def __init__(self, what: str = "teacher") -> None:
        self.what = what
        self._bar: tqdm | None = None

    def plan(self, plan: Plan) -> None:
        """Print the plan before the long part."""
        tqdm.write(f"{self.what}: {plan}")

    def progress(self, progress: Progress) -> None:
        """Advance the bar; it counts what the teacher makes, so that its rate and time left are true."""
        if self._bar is None:
            self._bar = tqdm(total=progress.encoded_total, desc=self.what, unit=" texts", mininterval=0.5)
        self._bar.total = progress.encoded_total
        self._bar.update(progress.encoded - self._bar.n)
        self._bar.set_postfix_str(f"{progress.bytes / 1e6:.1f} MB, {progress.hits:,} hits")

    def __enter__(self) -> CacheBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class TrainingBar:
    """Shows a `distill`: pass the bar itself as on_step."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, event: TrainingStep) -> None:
        """Advance the bar, and print a line for each held-out evaluation."""
        if self._bar is None:
            self._bar = tqdm(total=event.steps, initial=event.step, desc="student", unit=" steps", mininterval=0.5)
        self._bar.update(event.step - self._bar.n)
        if event.loss is not None:
            self._bar.set_postfix_str(f"loss {event.loss:.3f}, {event.texts_per_second:.0f} texts/s", refresh=False)
        if event.held_out_loss is not None:
            cosines = [
                f"cosine {value:.3f} on {role}"
                for role, value in (("queries", event.cosine_query), ("documents", event.cosine_document))
                if value is not None
            ]
            tqdm.write(f"epoch {event.epoch:4.2f}: held-out loss {event.held_out_loss:.4f}, {', '.join(cosines)}")

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
