"""Token ids of texts, made once and kept in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from workbench.data import Text
from workbench.errors import TrainingError


class Tokens:
    """The token ids of texts with their prompts, in a temporary file: memory does not grow with their lengths.

    Args:
        student: its tokenizer, prompts and maximum length are used.
        texts: n texts.

    Raises:
        TrainingError: the temporary folder has no room.
    """

    def __init__(self, student: SentenceTransformer, texts: Sequence[Text]) -> None:
        dtype = np.dtype(np.uint16 if len(student.tokenizer) <= 1 << 16 else np.uint32)
        self._pad = student.tokenizer.pad_token_id or 0
        self.lengths = np.empty(len(texts), dtype=np.int32)
        try:
            with tempfile.TemporaryFile() as file:
                for start in range(0, len(texts), 8192):
                    prompted = [
                        (student.prompts.get(text.role.value) or "") + text.text for text in texts[start : start + 8192]
                    ]
                    ids = student.tokenizer(
                        prompted, truncation=True, max_length=student.max_seq_length, padding=False
                    )["input_ids"]
                    self.lengths[start : start + 8192] = [len(each) for each in ids]
                    file.write(np.concatenate(ids).astype(dtype).tobytes())
                file.flush()
                self._ids = np.memmap(file, dtype=dtype, mode="r")
        except OSError as error:
            raise TrainingError(
                f"the texts' tokens cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. Set TMPDIR to "
                "a folder with room."
            ) from None
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the padded input of some texts: `input_ids` and `attention_mask`, int64 of shape (m, tokens)."""
        ids = np.full((len(rows), int(self.lengths[rows].max())), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self._ids[self._ends[row] - self.lengths[row] : self._ends[row]]
            mask[i, : self.lengths[row]] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
