"""Teachers turn texts of a role into target embeddings: a local model, a function, or vectors."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from workbench import models
from workbench._util import as_float32, counted, expanded, need, one_of, scaled, whole_number
from workbench.data import Role, Text, as_texts
from workbench.errors import IncompleteError, TeacherError
from workbench.passages import Reader, reader_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# bfloat16 is the default only where the mean cosine to the float32 vectors is at least this.
LEAST_COSINE = 0.999
_PROBES = (
    "How long should bread dough rest before it is baked?",
    "wing flutter at transonic speeds",
    "x",
    "La bibliothèque ferme à dix-huit heures.",
    "Interest is paid on the balance at the end of each month. " * 6,
)


class Teacher:
    """Turns texts of a role into target embeddings.

    `Teacher(source, **options)` chooses the class by the source: `LocalTeacher` for a model,
    `extras.api_teachers.ApiTeacher` for `"openai:MODEL"`, `FunctionTeacher` for a function,
    `ArrayTeacher` for vectors with `texts=`. A class of your own calls `super().__init__` and
    defines `encode`.

    The cache knows it by its `name`, and refuses another one of this name by the vectors of its
    `probes`. `normalize` says that vectors have length 1; `prompts`, by role, stand in front of
    each text; `settings` are all else that decides the vectors, as JSON values.

    Example:
        >>> wb.Teacher("all-mpnet-base-v2", max_length=40).encode(["bread", "stone"], "query").shape
        (2, 768)
    """

    concurrency: int = 1  # how many calls of `encode` may run at the same time
    batch_size: int | None = None  # texts of one call; None leaves it to the cache
    usage: object | None = None  # what was asked of an API; None if the teacher costs nothing
    reader: Reader | None = None  # how it reads documents, as far as that is known
    # Empty for a teacher whose identity tells all. The last is longer than most models read.
    probes: Sequence[Text] = (
        Text(_PROBES[0], Role.QUERY),
        *map(Text, (*_PROBES, " ".join(_PROBES) * 6)),
    )

    def __new__(cls, source: object = None, *args, **options):
        """Choose the class where none is named; Python then calls its `__init__`."""
        if cls is Teacher:
            cls = _class_for(source, options)
        return super().__new__(cls)

    def __init__(
        self,
        name: str,
        dimension: int,
        *,
        normalize: bool,
        prompts: Mapping[str, str] | None = None,
        **settings,
    ) -> None:
        self.name, self.dimension = name, int(dimension)
        self.prompts = checked_prompts(prompts)
        self.identity = {"teacher": name, "normalize": bool(normalize), "dimension": self.dimension}
        self.identity |= settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, dimension={self.dimension})"

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension).

        The texts come without their prompt. A teacher that waits ends when `stop` is set.
        IncompleteError, with the targets of the others, if texts have none.
        """
        raise NotImplementedError

    def probe(self, *, stop: Event | None = None) -> np.ndarray:
        """Return the vectors of `probes` as of now, float32 of shape (n, dimension)."""
        vectors = np.empty((len(self.probes), self.dimension), dtype=np.float32)
        for role, rows in models.by_role(self.probes).items():
            texts = [self.probes[row].text for row in rows]
            returned = self.encode(texts, Role(role), stop=stop)
            vectors[rows] = checked_targets(returned, len(texts), self.dimension)
        return vectors

    def estimate(self, texts: Sequence[Text]) -> object | None:
        """Return what encoding texts will cost, to be printed; None if it costs nothing."""
        return None


def make_teacher(source: object) -> Teacher:
    """Return a teacher as it is, or the teacher that `Teacher(source)` makes."""
    return source if isinstance(source, Teacher) else Teacher(source)


def is_api(source: object) -> bool:
    """Say whether a source is PROVIDER:MODEL, and no path with a colon."""
    return isinstance(source, str) and ":" in source[2:] and not expanded(source).exists()


def _class_for(source: object, options: Mapping[str, object]) -> type[Teacher]:
    if is_api(source):
        api = need("workbench.extras.api_teachers", "api")
        if source.partition(":")[0] in api.PROVIDERS:
            return api.ApiTeacher
        raise TeacherError(f"{source!r}: the providers are {', '.join(api.PROVIDERS)}")
    # A loaded model of any kind has a state_dict, and `load_model` refuses the wrong kinds.
    if isinstance(source, str | Path) or hasattr(source, "state_dict"):
        return LocalTeacher
    if "texts" in options:
        return ArrayTeacher
    if callable(source):
        return FunctionTeacher
    raise TeacherError(
        f"a teacher cannot be made of {type(source).__name__}: give a model's name or folder, a "
        "SentenceTransformer, a function of texts, 'openai:MODEL', or vectors with texts="
    )


class LocalTeacher(Teacher):
    """A sentence-transformers model on this machine as the teacher.

    It is a name, a folder or a loaded model, which is copied if anything in it changes. Texts are
    cut to `max_length` tokens. `prompts` are by role; None takes the model's own, `{}` none.
    `precision` is "float32", "bfloat16" or "auto": bfloat16 where the hardware is faster with it
    and a few vectors keep a mean cosine of 0.999, and for a loaded model its own.
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
    ) -> None:
        one_of(precision, "precision", models.PRECISIONS, TeacherError)
        if max_length is not None:
            whole_number(max_length, "max_length", 3, TeacherError)
        if isinstance(model, str | Path):
            files = models.resolve(model)
            self.model = models.load_model(files, device=device)
            full_name, weights = files.name, files.fingerprint
            # A folder goes by its own name: moved or copied, it is the same teacher.
            short = files.path.name if Path(files.name).is_absolute() else files.name
            cache_name, self.probes = name or short, ()
        else:
            self.model = models.load_model(model)
            weights = models.fingerprint(self.model)
            config = getattr(self.model.transformers_model, "config", None)
            short = Path(getattr(config, "name_or_path", "")).name
            full_name = cache_name = name or short or "SentenceTransformer"
            if max_length is not None or precision != "auto":
                self.model = copy.deepcopy(self.model)
            if precision == "auto":
                precision = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        models.check_cosine(self.model)
        if max_length is not None:
            models.shorten(self.model, max_length, full_name)
        if prompts is None:
            prompts = models.role_prompts(self.model.prompts)
        super().__init__(
            cache_name,
            self.model.get_embedding_dimension(),
            normalize=models.normalizes(self.model),
            prompts=prompts,
            fingerprint=weights,
            max_length=models.max_length(self.model),
            precision=precision,
        )
        self.name, self.dtype = full_name, self._choose_dtype(precision)
        self.model.to(self.dtype)

    @property
    def reader(self) -> Reader | None:
        """How it reads documents; None if their length has no limit."""
        return reader_of(self.model, self.prompts["document"])

    def encode(self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop=None) -> np.ndarray:
        """Return the targets of texts of one role."""
        prompt = self.prompts[Role(role)]
        return models.encode_strings(self.model, texts, role, prompt, precision="float32")

    def _choose_dtype(self, precision: str) -> torch.dtype:
        import torch

        if precision != "auto":
            return getattr(torch, precision)
        fast = models.best_dtype(self.model.device)
        if fast == torch.float32:
            return fast
        options = _PROBES, Role.DOCUMENT, "", "float32"
        exact = models.encode_strings(self.model, *options)
        rounded = models.encode_strings(copy.deepcopy(self.model).to(fast), *options)
        cosine = (scaled(exact) * scaled(rounded)).sum(axis=1).mean()
        return fast if cosine >= LEAST_COSINE else torch.float32


class FunctionTeacher(Teacher):
    """Any function from a list of texts, with their prompt in front, to vectors as the teacher.

    It gets the role too if it takes `role`. `normalize` scales vectors to length 1; one of zeros
    becomes NaN, which no cache stores.
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
            name = f"{function.__module__}.{getattr(function, '__qualname__', '<lambda>')}"
            if "<lambda>" in name:
                raise TeacherError("this function has no name: give name=, for its cache")
        self._function, self._normalize = function, normalize
        self._takes_role = "role" in inspect.signature(function).parameters
        try:
            width = self._call([_PROBES[0]], Role.DOCUMENT).shape[1]
        except TeacherError:
            raise
        except Exception as error:  # whatever the function raises
            raise TeacherError(
                f"the function cannot embed {_PROBES[0]!r} ({error!r}), and a teacher embeds any "
                "text: give stored vectors as wb.Teacher(vectors, texts=texts)"
            ) from error
        if dimension not in (None, width):
            raise TeacherError(f"the function returns {width} dimensions, not {dimension}")
        super().__init__(name, width, normalize=normalize, prompts=prompts, kind="function")

    def _call(self, texts: list[str], role: Role) -> np.ndarray:
        options = {"role": role} if self._takes_role else {}
        return checked_targets(self._function(texts, **options), len(texts))

    def encode(self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop=None) -> np.ndarray:
        """Return the targets of texts of one role."""
        vectors = self._call([self.prompts[Role(role)] + text for text in texts], Role(role))
        return scaled(vectors) if self._normalize else vectors


class ArrayTeacher(Teacher):
    """Existing vectors of n texts, of shape (n, dimension), as the teacher.

    It knows these texts and no others; of a text that comes again, the first row counts.
    """

    probes = ()

    def __init__(
        self,
        vectors: np.ndarray,
        texts: Sequence[Text],
        name: str = "vectors",
        *,
        normalize: bool = True,
    ) -> None:
        texts = as_texts(texts)
        if not isinstance(vectors, np.ndarray):
            vectors = as_float32(vectors)
        if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.dtype.kind not in "fiu":
            shape = f"{vectors.shape} ({vectors.dtype}) for {counted(len(texts), 'text')}"
            raise TeacherError(
                f"vectors of shape {shape}: expected one row of real numbers for each"
            )
        self._vectors, self._normalize = vectors, normalize
        self._rows: dict[tuple[Role, str], int] = {}
        digest = hashlib.sha256()
        for row, text in enumerate(texts):
            self._rows.setdefault((text.role, text.text), row)
            digest.update(f"{text.role} {len(text.text)} {text.text}".encode())
        digest.update(vectors.dtype.str.encode() + np.ascontiguousarray(vectors).tobytes())
        identity = {"kind": "array", "digest": digest.hexdigest()}
        super().__init__(name, vectors.shape[1], normalize=normalize, **identity)

    def encode(self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop=None) -> np.ndarray:
        """Return the targets of texts of one role."""
        rows = np.array([self._rows.get((Role(role), text), -1) for text in texts], dtype=int)
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        vectors[rows >= 0] = self._vectors[rows[rows >= 0]]
        if self._normalize:
            vectors = scaled(vectors)
        missing = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        if missing:
            reason = f"{self.name} has no vector of it, or one that is zero, NaN or infinite"
            raise IncompleteError(reason, vectors, dict.fromkeys(missing, reason))
        return vectors


def checked_targets(returned: object, count: int, dimension: int | None = None) -> np.ndarray:
    """Return what a teacher returned as float32 (count, dimension), or raise TeacherError."""
    try:
        vectors = as_float32(list(returned) if isinstance(returned, Iterator) else returned)
    except (TypeError, ValueError) as error:
        raise TeacherError(f"the teacher returned {type(returned).__name__}: {error}") from None
    if vectors.ndim != 2 or vectors.shape != (count, dimension or vectors.shape[1]):
        shape = f"({count}, {dimension or 'dimension'})"
        raise TeacherError(f"the teacher returned shape {vectors.shape}; expected {shape}")
    return vectors


def checked_prompts(prompts: Mapping[str, str] | None) -> dict[str, str]:
    """Return a prompt for each role, "" where none is given; TeacherError for an unknown role."""
    unknown = set(prompts or {}) - set(Role)
    if unknown:
        raise TeacherError(f"prompts for {sorted(unknown)}: the roles are query and document")
    return {role.value: (prompts or {}).get(role, "") for role in Role}
