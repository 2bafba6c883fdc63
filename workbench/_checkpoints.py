"""Checkpoints: a run that was stopped or killed continues to the same student, bit for bit.

A checkpoint is a folder of safetensors and JSON, complete or absent. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import torch
import xxhash
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workbench._util import WRITING, whole_folder
from workbench.errors import TrainingError, WorkbenchError


def write(
    folder: Path,
    state: dict,
    best: dict[str, torch.Tensor] | None,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint; every process of the run has to call this.

    `state` has JSON values, `step` and `identity` among them. The newest two checkpoints are kept,
    in case one is damaged.
    """
    # Every process draws its own dropout, so every process has a random state to keep.
    generators = {"generator": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        generators["cuda_generator"] = torch.cuda.get_rng_state()
    tensors = {
        name: accelerator.gather(generator.unsqueeze(0).to(accelerator.device))
        for name, generator in generators.items()
    }
    if not accelerator.is_main_process:
        return
    for parameter, moments in optimizer.state_dict()["state"].items():
        for name, tensor in moments.items():
            tensors[f"{parameter}.{name}"] = tensor
    parts = {"student": model.state_dict(), "optimizer": tensors}
    if best is not None:
        parts["best"] = best
    checkpoint = folder / f"step-{state['step']:08d}"
    try:
        for abandoned in folder.glob(f"{WRITING}*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        with whole_folder(checkpoint) as scratch:
            for part, tensors in parts.items():
                tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
                save_file(tensors, scratch / f"{part}.safetensors")
            sums = {file.name: _digest(file) for file in scratch.iterdir()}
            (scratch / "state.json").write_text(json.dumps({**state, "files": sums}))
    except (OSError, WorkbenchError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint of step {state['step']:,} cannot be written to {folder}: {error}. "
            "The one before is intact: make room and run again to continue from it."
        ) from None
    # A later step is of a run that was started over.
    earlier = [path for path in complete(folder) if path.name <= checkpoint.name]
    for path in set(complete(folder)) - set(earlier[-2:]):
        shutil.rmtree(path, ignore_errors=True)


def restore(
    folder: Path,
    identity: dict,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> tuple[dict, dict[str, torch.Tensor] | None] | None:
    """Load the newest intact checkpoint; return its `state` and best weights, None without one.

    TrainingError if it is of another run, or all checkpoints are damaged.
    """
    state, damage = None, ""
    for checkpoint in reversed(complete(folder)):
        try:
            state = read_state(checkpoint)
            break
        except (OSError, ValueError, LookupError, TypeError) as error:
            damage = damage or f"checkpoint {checkpoint} is damaged ({error})"
    if state is None and damage:
        raise TrainingError(
            f"{damage}, and so is any other: start over with resume=False (--fresh)"
        )
    if state is None:
        return None
    changed = [name for name in identity if state["identity"].get(name) != identity[name]]
    if changed:
        raise TrainingError(
            f"{checkpoint} is a checkpoint of another run (different {', '.join(changed)}): choose "
            "another folder, or start over with resume=False (--fresh)"
        )
    if damage:
        warnings.warn(f"{damage}; training continues from {checkpoint.name}", stacklevel=4)
    model.load_state_dict(load_file(checkpoint / "student.safetensors"))
    tensors = load_file(checkpoint / "optimizer.safetensors")
    # Cloned, because torch reads a view from the start of its storage.
    process = accelerator.process_index
    torch.set_rng_state(tensors.pop("generator")[process].clone())
    if "cuda_generator" in tensors:
        torch.cuda.set_rng_state(tensors.pop("cuda_generator")[process].clone())
    moments = optimizer.state_dict()
    moments["state"] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split(".")
        moments["state"].setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict(moments)
    best = checkpoint / "best.safetensors"
    return state, load_file(best) if best.is_file() else None


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def read_state(checkpoint: Path) -> dict:
    """Return the state of a checkpoint; ValueError if a file does not match its checksum."""
    state = json.loads((checkpoint / "state.json").read_text())
    for name, digest in state["files"].items():
        if _digest(checkpoint / name) != digest:
            raise ValueError(f"{name} does not match its checksum")
    return state


def _digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
