"""Teachers turn texts of a role into target embeddings: a local model, a function, or vectors that exist."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mode
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from workbench import models
from workbench._util import (
    ROUNDING,
    apart,
    as_float32,
    counted,
    expanded,
    need,
    one_of,
    scaled,
    takes_role,
    whole,
)
from workbench.data import Role, Text, as_texts
from workbench.errors import DataError, IncompleteError, TeacherError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# bfloat16 is the default only where the mean cosine to the float32 vectors is at least this.
LEAST_COSINE = 0.999

_PROBES = (
    "How long should bread dough rest before it is baked?",
    "wing flutter at transonic speeds",
    "The committee agreed on Tuesday to publish the minutes of its last three meetings, without the speakers' names.",
    "x",
    "Return the indices of the maximum values along an axis.",
    "La bibliothèque ferme à dix-huit heures.",
    "Interest is paid on the balance at the end of each month; a withdrawal before that date loses it. "
    * 6,
    "2026-01-01 12:00",
)


class _TeacherType(type):
    """Makes `Teacher(source)` choose the class, and sees that no teacher is without an identity."""

    def __call__(cls, *args, **options):
        if cls is Teacher:
            if len(args) > 1:
                raise TeacherError(
                    f"Teacher takes one source, got {len(args)}; options go by name: max_length=96"
                )
            return _teacher(*args, **options)
        taken = inspect.signature(cls.__init__).parameters
        unknown = [each for each in options if each not in taken]
        if unknown and all(each.kind is not each.VAR_KEYWORD for each in taken.values()):
            raise TeacherError(
                f"{cls.__name__} has no option {', '.join(unknown)}; it has {', '.join([*taken][2:])}"
            )
        teacher = super().__call__(*args, **options)
        if "identity" not in vars(teacher):
            raise TeacherError(
                f"{cls.__name__}.__init__ must call super().__init__(name, dimension, normalize=...)"
            )
        return teacher


class Teacher(metaclass=_TeacherType):
    """Turns texts of a role into target embeddings.

    `Teacher(source, **options)` chooses the class by what `source` is:

    - a model's name, a folder or a loaded `SentenceTransformer`: `LocalTeacher`
    - `"openai:MODEL"`, or another provider's name in front: `extras.api_teachers.ApiTeacher`
    - a function of texts: `FunctionTeacher`
    - an array or tensor of vectors, with `texts=`: `ArrayTeacher`
    - a teacher: that teacher itself

    A class of your own calls `super().__init__` and defines `encode`; the rest has defaults.

    Args:
        name: the cache's name for the teacher; change it whenever its vectors change.
        dimension: width of the vectors.
        normalize: whether the vectors have length 1; students are built accordingly.
        prompts: role to the prompt in front of each text of that role; none by default.
        settings: everything else that decides the vectors, as JSON values.

    Attributes:
        name, dimension, prompts: as given; there is a prompt for each role.
        identity: everything besides role, prompt and text that decides the vectors. It names the cache's folder.
        concurrency: how many calls of `encode` may run at the same time.
        batch_size: texts of one call; None leaves it to the cache.
        usage: what was asked of an API so far; None for a teacher that costs nothing.

    Raises:
        TeacherError: an empty name, a dimension below 1, an unknown role, or a setting that JSON cannot hold.

    Example:
        >>> import workbench as wb
        >>> wb.Teacher("all-mpnet-base-v2", max_length=40).encode(["bread", "stone"], "query").shape
        (2, 768)
    """

    concurrency: int = 1
    batch_size: int | None = None
    usage: object | None = None

    def __init__(
        self,
        name: str,
        dimension: int,
        *,
        normalize: bool,
        prompts: Mapping[str, str] | None = None,
        **settings,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise TeacherError(
                f"a teacher needs a name, which its cache is kept under; got {name!r}"
            )
        self.dimension = whole(dimension, f"the dimension of teacher {name!r}", error=TeacherError)
        self.name, self.prompts = name, checked_prompts(prompts)
        self.identity = {
            "teacher": name,
            "normalize": bool(normalize),
            "dimension": self.dimension,
            **settings,
        }
        try:
            json.dumps(self.identity)
        except (TypeError, ValueError) as error:
            raise TeacherError(
                f"the settings of teacher {name!r} must be JSON values: {error}"
            ) from None

    def __init_subclass__(cls) -> None:
        if "encode" in vars(cls):
            parameters = inspect.signature(cls.encode).parameters.values()
            if not any(each.name == "stop" or each.kind is each.VAR_KEYWORD for each in parameters):
                raise TypeError(
                    f"define {cls.__name__}.encode(self, texts, role='document', *, stop=None)"
                )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, dimension={self.dimension})"

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension).

        Args:
            texts: without their prompt.
            role: of all of them.
            stop: an event; a teacher that waits, for a server for example, stops waiting when it is set.

        Raises:
            IncompleteError: some texts have no target; the error holds the targets of the others.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define encode")

    def probe(self, *, stop: Event | None = None) -> tuple[Text, np.ndarray] | None:
        """Return a text and its vector as of now, where another model may come to answer to the same name."""
        return None

    def estimate(self, texts: Sequence[Text]) -> object | None:
        """Return what encoding texts will cost, as something to print; None for a teacher that costs nothing."""
        return None


class LocalTeacher(Teacher):
    """A sentence-transformers model on this machine as the teacher.

    Args:
        model: a folder, a packaged model, a model on the hub (see `models.resolve`), or a loaded
            `SentenceTransformer`, which is copied if `max_length` or `precision` would change it.
        name: what the cache calls a loaded model; by default, the folder or name that it was loaded from.
        max_length: texts are cut to this many tokens; the model's own limit if None.
        prompts: role to prompt; the model's own prompts if None, `{}` for none at all.
        precision: "auto", "float32" or "bfloat16". "auto" takes bfloat16 where the hardware is faster with it and
            the vectors of a few probe texts keep a mean cosine of 0.999; a loaded model keeps its own.
        device: torch device; the best one present if None. This and what follows are for a model that is not loaded.
        revision: the hub's branch, tag or commit.
        trust_remote_code: run code that comes with the model; off unless asked for.

    Raises:
        ModelError: the model cannot be found or loaded, or is not a text-embedding model.
        TeacherError: a setting makes no sense for it.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        name: str | None = None,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        one_of(precision, "precision", models.PRECISIONS, TeacherError)
        checked_prompts(prompts)  # before a model is loaded
        if max_length is not None:
            whole(max_length, "max_length", 3, TeacherError)
        if isinstance(model, str | Path):
            files = models.resolve(model, revision)
            self.model = models.load(files, device=device, trust_remote_code=trust_remote_code)
            shown, digest = files.name, files.fingerprint
            # A folder goes by its own name: moved or copied, it is the same teacher.
            label = name or (files.path.name if Path(files.name).is_absolute() else files.name)
        else:
            if device or revision or trust_remote_code:
                raise TeacherError(
                    "device, revision and trust_remote_code are for a model's name, not a loaded model"
                )
            self.model = models.load_model(model)
            origin = getattr(
                getattr(self.model.transformers_model, "config", None), "name_or_path", ""
            )
            shown = label = name or Path(origin).name or "SentenceTransformer"
            digest = models.fingerprint(self.model)
            own = str(next(self.model.parameters()).dtype).removeprefix("torch.")
            precision = own if precision == "auto" else precision
            if precision != own or max_length not in (None, models.max_length(self.model)):
                self.model = copy.deepcopy(self.model)
        if max_length is not None:
            models.shorten(self.model, max_length, shown)
        super().__init__(
            label,
            self.model.get_embedding_dimension(),
            normalize=models.normalizes(self.model),
            prompts={role: models.role_prompt(self.model, role) for role in Role}
            if prompts is None
            else prompts,
            fingerprint=digest,
            pooling=[
                type(module).__name__
                + (f":{module.pooling_mode}" if hasattr(module, "pooling_mode") else "")
                for module in list(self.model.children())[1:]
            ],
            max_length=models.max_length(self.model),
            precision=precision,
            **({"code": code} if (code := models.code_digest(self.model)) else {}),
        )
        self.name, self.dtype = shown, self._choose_dtype(precision)
        self.model.to(self.dtype)

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension)."""
        return models.encode(
            self.model, texts, role, prompt=self.prompts[Role(role)], precision="float32"
        )

    def _choose_dtype(self, precision: str) -> torch.dtype:
        import torch

        if precision != "auto":
            return getattr(torch, precision)
        if (fast := models.best_dtype(self.model.device)) == torch.float32:
            return fast
        exact = models.encode(self.model, _PROBES, Role.DOCUMENT, prompt="", precision="float32")
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        rounded = models.encode(
            self.model.to(fast), _PROBES, Role.DOCUMENT, prompt="", precision="float32"
        )
        self.model.to(torch.float32).load_state_dict(weights)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
        cosine = float(((exact * rounded).sum(axis=1) / norms).mean())
        return fast if cosine >= LEAST_COSINE else torch.float32


class FunctionTeacher(Teacher):
    """Any function of texts as the teacher.

    Args:
        function: from a list of texts (with their prompt in front) to vectors of shape (n, dimension): an array, a
            tensor or lists. It is given the role too if its second argument is required or is named `role`.
        name: what the cache calls it; change it with the function. Its module and name if None; a lambda has none.
        dimension: of its vectors; if None, found by calling the function with one short text.
        prompts: role to prompt.
        normalize: scale vectors to length 1, as a student's are.

    Raises:
        TeacherError: no name, a prompt of an unknown role, or a function that does not return one vector per text.
    """

    def __init__(
        self,
        function: Callable[..., object],
        name: str | None = None,
        dimension: int | None = None,
        *,
        prompts: Mapping[str, str] | None = None,
        normalize: bool = True,
    ) -> None:
        if name is None:
            qualified = getattr(function, "__qualname__", "<lambda>")
            if "<lambda>" in qualified:
                raise TeacherError(
                    "this function has no name of its own: give name=, which its cache is kept under"
                )
            name = f"{function.__module__}.{qualified}"
        self._function = function if takes_role(function) else lambda texts, _: function(texts)
        if dimension is None:
            vector = self._function(["What is the width of a vector?"], Role.DOCUMENT)
            dimension = checked_targets(vector, 1).shape[1]
        super().__init__(name, dimension, normalize=normalize, prompts=prompts, kind="function")
        self._normalize = normalize

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension)."""
        returned = self._function([self.prompts[Role(role)] + text for text in texts], Role(role))
        vectors = checked_targets(returned, len(texts), self.dimension)
        if not self._normalize:
            return vectors
        zeros = np.flatnonzero(~vectors.any(axis=1)).tolist()
        failed = dict.fromkeys(zeros, "its vector is all zeros, which have no direction")
        return _complete(self, texts, scaled(vectors), failed)


class ArrayTeacher(Teacher):
    """Vectors that exist already as the teacher: it knows their texts and no others.

    Args:
        texts: with their roles; n of them.
        vectors: an array of shape (n, dimension), also memory-mapped, a tensor or lists.
        name: what the cache calls it, together with a digest of texts and vectors.
        normalize: scale vectors to length 1, as a student's are.

    Raises:
        TeacherError: there are not as many texts as vectors, or a text has two vectors that differ by more than
            rounding to bfloat16 explains (2^-7 of their length); else the first is kept, with a warning.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        vectors: np.ndarray,
        name: str = "vectors",
        *,
        normalize: bool = True,
    ) -> None:
        texts = as_texts(texts)
        if isinstance(vectors, list | tuple) or hasattr(vectors, "detach"):
            try:
                vectors = as_float32(vectors)
            except (TypeError, ValueError) as error:
                raise TeacherError(
                    f"expected vectors of one width, one for each text ({error})"
                ) from None
        shape, dtype = getattr(vectors, "shape", ()), getattr(vectors, "dtype", None)
        if len(shape) != 2 or shape[0] != len(texts) or not shape[1] or dtype.kind not in "fiu":
            given = f"{len(texts):,} texts and vectors of shape {shape} ({dtype})"
            raise TeacherError(f"{given}: expected one row of real numbers for each text")
        self._vectors, self._normalize = vectors, normalize
        self._rows: dict[tuple[Role, str], int] = {}
        digest, rounded = hashlib.sha256(), 0
        for row, text in enumerate(texts):
            first = self._rows.setdefault((text.role, text.text), row)
            if first != row and (share := apart(vectors[first], vectors[row])):
                rounded += 1
                if not share <= ROUNDING:
                    said = f"rows {first:,} and {row:,} are of the same {text.role} and differ by {share:.1%}"
                    raise TeacherError(
                        f"{said}, not by rounding: {text.text[:60]!r}. Keep one row of each text"
                    )
            digest.update(f"{text.role} {len(text.text)} {text.text}".encode())
        if rounded:
            said = f"{counted(rounded, 'vector')} of texts that come again left out"
            warnings.warn(
                f"{said}: only rounding tells them from the first, which is kept", stacklevel=3
            )
        for start in range(0, len(vectors), 65_536):
            digest.update(np.ascontiguousarray(vectors[start : start + 65_536]).tobytes())
        super().__init__(
            name,
            int(vectors.shape[1]),
            normalize=normalize,
            kind="array",
            digest=digest.hexdigest(),
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, object]],
        name: str,
        *,
        text: str = "text",
        vector: str = "vector",
        role: str | Role = Role.DOCUMENT,
        normalize: bool = True,
    ) -> ArrayTeacher:
        """Take texts and vectors from rows, such as those of `data.hub_rows` or `pandas.DataFrame.to_dict("records")`.

        Args:
            rows: mappings from field to value.
            name, normalize: as for the class.
            text, vector: the fields with the text and its vector, a list or array of numbers; a text whose vector is null
                has no target.
            role: of all texts, or the field that has it; a document where that is empty.

        Raises:
            TeacherError: a row without such a field, or vectors of different widths.
        """
        texts, vectors, fixed = [], [], role in [*Role]  # also where a column has such a name
        for number, row in enumerate(rows):
            if absent := [field for field in (text, vector) if field not in row]:
                raise TeacherError(
                    f"row {number:,} has no field {absent[0]!r}; it has {', '.join(map(str, row))}"
                )
            try:
                texts.append(
                    Text(row[text], role if fixed else row.get(role, role) or Role.DOCUMENT)
                )
                given = as_float32(row[vector])
                vectors.append(
                    given.ravel() if given.ndim else given.ravel()[:0]
                )  # null, or NaN in a dataframe
            except DataError as error:
                raise TeacherError(f"row {number:,}: {error}") from None
            except (TypeError, ValueError):
                raise TeacherError(f"row {number:,}: {vector!r} is no vector of numbers") from None
        width = mode([len(each) for each in vectors if len(each)] or [0])
        if odd := [row for row, each in enumerate(vectors) if len(each) not in (0, width)]:
            raise TeacherError(
                f"row {odd[0]:,} is {len(vectors[odd[0]])} wide, most rows are {width}"
            )
        vectors = [each if len(each) else np.full(width, np.nan) for each in vectors]
        return cls(texts, np.array(vectors, dtype=np.float32), name, normalize=normalize)

    @property
    def texts(self) -> list[Text]:
        """The texts that it has vectors of, each once."""
        return [Text(text, role) for role, text in self._rows]

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension).

        IncompleteError if some texts are not known, or their vectors are NaN, infinite, or zero and to be scaled.
        """
        rows = np.array([self._rows.get((Role(role), text), -1) for text in texts], dtype=int)
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        known = rows >= 0
        vectors[known] = self._vectors[rows[known]]
        if self._normalize:
            vectors = scaled(vectors)
        why = "the array has no vector of it", "its vector in the array is zero, NaN or infinite"
        failed = {
            int(i): why[int(known[i])] for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        }
        return _complete(self, texts, vectors, failed)


def _teacher(source: object = None, **options) -> Teacher:
    """Return the teacher that `Teacher(source, **options)` asks for."""
    if isinstance(source, Teacher):
        if options:
            raise TeacherError(
                f"{source.name} is a teacher already: it takes no {', '.join(options)}"
            )
        return source
    if isinstance(source, str) and ":" in source[2:] and not os.path.exists(expanded(source)):
        provider, _, model = source.partition(":")
        return need("workbench.extras.api_teachers", "api").ApiTeacher(
            model, provider=provider, **options
        )
    if isinstance(source, str | Path):
        return LocalTeacher(source, **options)
    if "texts" in options:
        return ArrayTeacher(vectors=source, **options)
    if isinstance(source, np.ndarray | list | tuple) or hasattr(source, "detach"):
        raise TeacherError(
            f"a teacher of vectors ({type(source).__name__}) needs the text of each: give texts="
        )
    if (torch := sys.modules.get("torch")) and isinstance(source, torch.nn.Module):
        return LocalTeacher(source, **options)
    if callable(source) and not isinstance(source, type):
        return FunctionTeacher(source, **options)
    raise TeacherError(
        f"a teacher cannot be made of {'None' if source is None else f'an object of type {type(source).__name__}'}: "
        "give a model's name or folder, a SentenceTransformer, a function of texts (such as another model's encode), "
        "'openai:MODEL', or vectors with texts="
    )


def checked_targets(returned: object, count: int, dimension: int | None = None) -> np.ndarray:
    """Return what a teacher returned as float32 of shape (count, dimension); TeacherError if it cannot be."""
    try:
        vectors = as_float32(list(returned) if isinstance(returned, Iterator) else returned)
        given = "None" if returned is None else f"an array of shape {vectors.shape}"
    except (TypeError, ValueError) as error:
        vectors = np.empty(())
        given = f"{'an array' if hasattr(returned, 'dtype') else f'a {type(returned).__name__}'} of {error}"
    if vectors.ndim != 2 or vectors.shape != (count, dimension or vectors.shape[1]):
        raise TeacherError(
            f"the teacher returned {given} for {counted(count, 'text')}; expected an array, a tensor or lists of numbers, "
            f"of shape ({count}, {dimension or 'dimension'})"
        )
    return vectors


def _complete(
    teacher: Teacher, texts: Sequence[str], vectors: np.ndarray, failed: dict[int, str]
) -> np.ndarray:
    """Return the vectors; IncompleteError if there are rows that failed."""
    if failed:
        said = f"{teacher.name} has no vector of {len(failed):,} of the texts, first {texts[min(failed)][:60]!r}"
        raise IncompleteError(f"{said}: {failed[min(failed)]}", vectors, failed)
    return vectors


def checked_prompts(prompts: Mapping[str, str] | None) -> dict[str, str]:
    """Return a prompt for each role, "" where none is given; TeacherError for an unknown role."""
    if unknown := set(prompts or {}) - set(Role):
        raise TeacherError(
            f"prompts for {', '.join(sorted(unknown))}: the roles are query and document"
        )
    return {role.value: (prompts or {}).get(role, "") for role in Role}
