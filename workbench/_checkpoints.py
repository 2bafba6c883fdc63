"""Checkpoints, whole or absent: a killed run continues to the same student, bit for bit."""

import json
import shutil
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from xxhash import xxh3_128_hexdigest

from workbench._util import whole_folder
from workbench.errors import TrainingError, WorkbenchError


def write(
    folder: Path,
    state: dict,
    best: dict[str, torch.Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint and keep the newest two; every process has to call this."""
    # Every process draws its own dropout, so every process has a random state to keep.
    is_cuda = accelerator.device.type == "cuda"
    generator = torch.cuda.get_rng_state() if is_cuda else torch.get_rng_state()
    generators = accelerator.gather(generator.unsqueeze(0).to(accelerator.device))
    if not accelerator.is_main_process:
        return
    tensors = {"generators": generators}
    for parameter, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{parameter}.{name}": tensor for name, tensor in moments.items()}
    parts = {"student": model.state_dict(), "optimizer": tensors, "best": best}
    checkpoint = folder / f"step-{state['step']:08d}"
    try:
        with whole_folder(checkpoint) as scratch:
            for part, tensors in parts.items():
                tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
                save_file(tensors, scratch / f"{part}.safetensors")
            sums = {file.name: xxh3_128_hexdigest(file.read_bytes()) for file in scratch.iterdir()}
            (scratch / "state.json").write_text(json.dumps({**state, "files": sums}))
    except (WorkbenchError, SafetensorError) as error:
        advice = "the one before is intact: make room and run again"
        raise TrainingError(f"{checkpoint} cannot be written ({error}); {advice}") from None
    # A later step is of a run that was started over.
    kept = [path for path in _complete(folder) if path.name <= checkpoint.name][-2:]
    for path in set(_complete(folder)) - set(kept):
        shutil.rmtree(path, ignore_errors=True)


def restore(
    folder: Path,
    identity: dict,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Load the newest intact checkpoint; return its `state` and best weights, {} without one."""
    for checkpoint in reversed(_complete(folder)):
        try:
            state = read_state(checkpoint)
            break
        except (OSError, ValueError, LookupError) as error:
            warnings.warn(f"checkpoint {checkpoint} is damaged: {error}", stacklevel=4)
    else:
        return {}, {}
    changed = [name for name in identity if state["identity"].get(name) != identity[name]]
    if changed:
        other = f"{checkpoint} is of another run (different {', '.join(changed)})"
        raise TrainingError(f"{other}: choose another folder or resume=False (--fresh)")
    model.load_state_dict(load_file(checkpoint / "student.safetensors"))
    tensors = load_file(checkpoint / "optimizer.safetensors")
    # Cloned, because torch reads a view from the start of its storage.
    generator = tensors.pop("generators")[accelerator.process_index].clone()
    if accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(generator)
    else:
        torch.set_rng_state(generator)
    moments = optimizer.state_dict()
    moments["state"] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split(".")
        moments["state"].setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict(moments)
    return state, load_file(checkpoint / "best.safetensors")


def read_state(checkpoint: Path) -> dict:
    """Return the state of a checkpoint; ValueError if a file does not match its checksum."""
    state = json.loads((checkpoint / "state.json").read_text())
    for name, digest in state["files"].items():
        if xxh3_128_hexdigest((checkpoint / name).read_bytes()) != digest:
            raise ValueError(f"{name} does not match its checksum")
    return state


def _complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    return [path.parent for path in sorted(folder.glob("step-*/state.json"))]
