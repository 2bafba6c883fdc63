"""Teachers: whatever turns texts of a role into target embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from workbench import encoding, models
from workbench.corpora import Role
from workbench.errors import TeacherError

# A lower precision is the default only where it moves the vectors less than this, in mean cosine.
LEAST_COSINE = 0.999

_PROBES = (
    "How long should bread dough rest before it is baked?",
    "wing flutter at transonic speeds",
    "The committee agreed on Tuesday to publish the minutes of its last three meetings, with the names "
    "of the speakers taken out, so that the public can follow how the decision was reached.",
    "x",
    "Return the indices of the maximum values along an axis.",
    "La bibliothèque ferme à dix-huit heures.",
    "Interest is paid on the balance at the end of each month; a withdrawal before that date loses it. " * 6,
    "2026-01-01 12:00",
)


class Teacher(Protocol):
    """What the cache needs of a teacher.

    Attributes:
        identity: everything besides role, prompt and text that decides the vectors, as JSON values.
        prompts: role to the prompt in front of each text of that role.
        dimension: width of the vectors.
    """

    identity: Mapping[str, object]
    prompts: Mapping[str, str]
    dimension: int

    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension)."""
        ...


class LocalTeacher:
    """A sentence-transformers model on this machine as the teacher.

    Args:
        name: a folder, a packaged model or a model on the hub; see `models.resolve`.
        max_length: texts are cut to this many tokens; the model's own limit if None.
        prompts: role to prompt; the model's own prompts if None, `{}` for none at all.
        precision: "auto", "float32" or "bfloat16". "auto" takes bfloat16 where the hardware is
            faster with it and this model's vectors keep a mean cosine of 0.999 to the float32 ones,
            tried out on a few probe texts.
        device: torch device; the best one present if None.
        revision: the hub's branch, tag or commit.
        trust_remote_code: run code that comes with the model; off unless asked for.

    Raises:
        ModelError: the model cannot be found or loaded.
        TeacherError: a setting makes no sense for it.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise TeacherError(f"precision {precision!r}: it must be auto, float32 or bfloat16")
        if prompts is not None and (unknown := set(prompts) - set(Role)):
            raise TeacherError(f"prompts for {', '.join(sorted(unknown))}: the roles are query and document")
        files = models.resolve(name, revision)
        self.model = models.load(files, device=device, trust_remote_code=trust_remote_code)
        limit = self.model.max_seq_length
        if max_length is not None:
            if max_length < 3 or (limit and max_length > limit):
                raise TeacherError(f"max_length {max_length}: {files.name} takes from 3 to {limit} tokens")
            self.model.max_seq_length = max_length
        self.name = files.name
        self.prompts = {
            role.value: encoding.role_prompt(self.model, role) if prompts is None else prompts.get(role, "")
            for role in Role
        }
        self.dimension = self.model.get_embedding_dimension()
        self.identity = {
            # A folder goes by its own name: moved or copied, it is the same teacher.
            "teacher": files.path.name if Path(files.name).is_absolute() else files.name,
            "fingerprint": files.fingerprint,
            "pooling": [module.__class__.__name__ + _pooling(module) for module in self.model.children()][1:],
            "normalize": encoding.normalizes(self.model),
            "max_length": self.model.max_seq_length,
            "precision": precision,
            "dimension": self.dimension,
        }
        self.dtype = self._choose_dtype(precision)
        self.model.to(self.dtype)

    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension)."""
        return encoding.encode(self.model, texts, role, prompt=self.prompts[role])

    def _choose_dtype(self, precision: str) -> torch.dtype:
        if precision != "auto":
            return getattr(torch, precision)
        fast = encoding.best_dtype(self.model.device)
        if fast == torch.float32:
            return fast
        exact = encoding.encode(self.model, _PROBES, Role.DOCUMENT, prompt="")
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        rounded = encoding.encode(self.model.to(fast), _PROBES, Role.DOCUMENT, prompt="")
        self.model.to(torch.float32).load_state_dict(weights)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
        cosine = float(((exact * rounded).sum(axis=1) / norms).mean())
        return fast if cosine >= LEAST_COSINE else torch.float32


def _pooling(module: torch.nn.Module) -> str:
    return f":{module.pooling_mode}" if hasattr(module, "pooling_mode") else ""
