"""Checkpoints: a run that was stopped or killed continues to the same student, bit for bit.

Weights, moments and random states are safetensors, the rest is json.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workbench._util import WRITING, whole_folder
from workbench.errors import TrainingError, WorkbenchError

if TYPE_CHECKING:
    from workbench.train import Run

_STATE = ("step", "best_step", "best_loss", "history", "identity")  # of a run, as JSON values


class Checkpoints:
    """Checkpoints of one run, a folder each, complete or absent. The newest two are kept, in case one is damaged.

    TrainingError if the folder cannot be written to.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if run.accelerator.is_main_process:
                for abandoned in folder.glob(f"{WRITING}*"):  # of a process that was killed
                    shutil.rmtree(abandoned, ignore_errors=True)
            with tempfile.TemporaryFile(
                dir=folder
            ):  # every process of the run tries, each a file of its own
                pass
        except OSError as error:
            raise TrainingError(
                f"checkpoints cannot be written to {folder}: {error.strerror or error}"
            ) from None

    def write(self) -> None:
        """Write the state after the last step; every process of the run has to call this."""
        run = self.run
        # Every process draws its own dropout, so every process has a state of its own to keep.
        generators = run.accelerator.gather(
            torch.get_rng_state().unsqueeze(0).to(run.accelerator.device)
        ).cpu()
        if not run.accelerator.is_main_process:
            return
        moments = {
            f"{i}.{name}": tensor
            for i, state in run.optimizer.state_dict()["state"].items()
            for name, tensor in state.items()
        }
        if run.accelerator.device.type == "cuda":
            moments["cuda_generator"] = torch.cuda.get_rng_state()
        parts = {
            "student": run.student.state_dict(),
            "optimizer": moments | {"generators": generators},
        }
        parts |= {"best": run.best} if run.best is not None else {}
        final = self.folder / f"step-{run.step:08d}"
        try:
            with whole_folder(final) as scratch:
                for part, tensors in parts.items():
                    tensors = {
                        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
                    }
                    save_file(tensors, scratch / f"{part}.safetensors")
                state = {name: getattr(run, name) for name in _STATE}
                state["files"] = {file.name: _digest(file) for file in scratch.iterdir()}
                (scratch / "state.json").write_text(json.dumps(state))
        except (WorkbenchError, SafetensorError) as error:
            raise TrainingError(
                f"the checkpoint of step {run.step:,} cannot be written to {self.folder}: {error}. "
                "The one before is intact: make room and run again to continue from it."
            ) from None
        found = complete(self.folder)
        # A later step is of a run that was started over from an earlier one.
        kept = [folder for folder in found if folder.name <= final.name][-2:]
        for other in set(found) - set(kept):
            shutil.rmtree(other, ignore_errors=True)

    def restore(self) -> None:
        """Continue the run from the newest intact checkpoint, if any; TrainingError if it is of another run."""
        run, damage = self.run, None
        for newest in reversed(complete(self.folder)):
            try:
                state = _checked(newest)
                break
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                damage = damage or f"checkpoint {newest} is damaged ({error})"
        else:
            if not damage:
                return
            raise TrainingError(
                f"{damage}, and so is any other: delete it, or start over with resume=False (--fresh)"
            )
        if (identity := state["identity"]) != run.identity:
            changed = [name for name in run.identity if identity.get(name) != run.identity[name]]
            raise TrainingError(
                f"{newest} is a checkpoint of another run (different {', '.join(changed)}): choose another folder, "
                "or start over with resume=False (--fresh)"
            )
        if damage:
            warnings.warn(f"{damage}; training continues from {newest.name}", stacklevel=2)
        tensors = load_file(newest / "optimizer.safetensors")
        run.student.load_state_dict(load_file(newest / "student.safetensors"))
        run.best = (
            load_file(newest / "best.safetensors") if "best.safetensors" in state["files"] else None
        )
        generators = tensors.pop("generators")
        torch.set_rng_state(
            generators[run.accelerator.process_index].clone()
        )  # a view is read from its base's start
        if (
            cuda := tensors.pop("cuda_generator", None)
        ) is not None and run.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(cuda)
        loaded = run.optimizer.state_dict()
        loaded["state"] = {}
        for name, tensor in tensors.items():
            number, _, moment = name.partition(".")
            loaded["state"].setdefault(int(number), {})[moment] = tensor
        run.optimizer.load_state_dict(loaded)
        for name in _STATE:
            setattr(run, name, state[name])


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def _checked(folder: Path) -> dict:
    """Return the state of a checkpoint, after checking its files against their checksums."""
    state = json.loads((folder / "state.json").read_text())
    for name, digest in state["files"].items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} does not match its checksum")
    if "identity" not in state:
        raise ValueError("it states no run")
    return state


def _digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
