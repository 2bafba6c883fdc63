import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from workbench import _model_files, models, student
from workbench.errors import ModelError
from workbench.teachers import LocalTeacher


def test_a_folder_is_a_model(tiny_model):
    files = models.resolve(tiny_model)
    assert files.path == tiny_model and len(files.fingerprint) == 64
    assert models.resolve(str(tiny_model)) == files


def test_the_fingerprint_follows_the_content(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    assert models.resolve(copy).fingerprint == models.resolve(tiny_model).fingerprint
    config = json.loads((copy / "1_Pooling" / "config.json").read_text())
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(config | {"pooling_mode": "cls"}))
    assert models.resolve(copy).fingerprint != models.resolve(tiny_model).fingerprint


def test_an_unknown_name_lists_what_was_tried():
    with pytest.raises(ModelError, match=r"(?s)Tried:.*folder nobody/no-such-model.*hub: "):
        models.resolve("nobody/no-such-model")
    for wrong in ("", None):
        with pytest.raises(ModelError, match="expected a model's name"):
            models.resolve(wrong)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(_model_files._PACKAGES, models.MINILM, (["no-such-distribution"], "00"))
    with pytest.raises(ModelError, match=r"not installed; `make models`"):
        models.resolve("all-MiniLM-L6-v2")


def test_pickled_weights_and_empty_folders_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        models.resolve(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickled weights, .*: pytorch_model.bin"):
        models.resolve(tmp_path)


@pytest.fixture
def with_dense(tiny_model, tmp_path):
    """A model with a Dense module, laid out as LaBSE and sentence-t5 are: safetensors, and a pickle for the Dense."""
    from sentence_transformers.sentence_transformer.modules import Dense

    model = models.load(tiny_model, device="cpu")
    folder = tmp_path / "dense"
    SentenceTransformer(
        modules=[*list(model.children())[:2], Dense(32, 16)], device="cpu"
    ).save_pretrained(str(folder))
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    return folder


def test_a_pickle_in_any_module_is_refused_and_can_be_converted(with_dense, tmp_path):
    with pytest.raises(ModelError, match="not loaded: 2_Dense/pytorch_model.bin") as caught:
        models.load(with_dense)
    command = str(caught.value).partition("If you trust them, ")[2].partition(" writes")[0]
    assert command == f"SentenceTransformer({str(with_dense)!r}).save_pretrained('NEW_FOLDER')"
    converted = tmp_path / "converted"
    exec(
        command.replace("NEW_FOLDER", str(converted)), {"SentenceTransformer": SentenceTransformer}
    )
    before = models.resolve(converted).fingerprint
    assert models.load(converted).get_embedding_dimension() == 16
    weights = load_file(converted / "2_Dense" / "model.safetensors")
    save_file(
        {name: 2 * tensor for name, tensor in weights.items()},
        converted / "2_Dense" / "model.safetensors",
    )
    assert models.resolve(converted).fingerprint != before  # that Dense alone was trained again


@pytest.mark.slow
def test_what_a_loader_opens_is_in_the_fingerprint(with_dense, tmp_path):
    """Python's own opening of files is watched in another process; what is left out of the fingerprint is never opened."""
    folder = tmp_path / "converted"
    SentenceTransformer(str(with_dense), device="cpu").save_pretrained(str(folder))
    for name in (
        "README.md",
        "LICENSE",
        "tf_model.h5",
        "onnx/model.onnx",
        "photo.png",
        "training_args.bin",
        ".hidden",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    code = (
        "import sys; from workbench import models; folder, opened = sys.argv[1], set()\n"
        "files = models.resolve(folder)\n"
        "sys.addaudithook(lambda event, arguments: event == 'open' and opened.add(str(arguments[0])))\n"
        "models.load(files); print(*(path for path in opened if path.startswith(folder)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    opened = {
        Path(line).relative_to(folder)
        for line in done.stdout.split("\n")
        if line and Path(line).is_file()
    }
    read = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    read = {path for path in read if _model_files._is_read(path)}
    assert Path("2_Dense/config.json") in opened and opened - {Path("README.md")} <= read


def test_code_that_came_with_a_model_is_in_the_fingerprint(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    folder = shutil.copytree(tiny_model, tmp_path / "coded")
    listed = json.loads((folder / "modules.json").read_text())
    listed[2] |= {"type": "own.Own", "path": ""}
    (folder / "modules.json").write_text(json.dumps(listed))
    identities = []
    for factor in (1, 2):
        (folder / "own.py").write_text(
            "from sentence_transformers.base.modules import Module\n\n"
            "class Own(Module):\n"
            "    def forward(self, features, **kwargs):\n"
            f"        return features | {{'sentence_embedding': features['sentence_embedding'] * {factor}}}\n"
            "    def save(self, *args, **kwargs): pass\n"
            "    @classmethod\n"
            "    def load(cls, *args, **kwargs): return cls()\n"
        )
        teacher = LocalTeacher(folder, device="cpu", trust_remote_code=True)
        identities.append(teacher.identity | {"loaded": models.fingerprint(teacher.model)})
    assert (
        identities[0]["code"] != identities[1]["code"]
        and identities[0]["loaded"] != identities[1]["loaded"]
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalTeacher(folder, device="cpu")  # nothing was asked for


def test_a_flipped_byte_in_a_students_weights_is_noticed(tiny_model, tmp_path):
    model = student.build(tiny_model, 16, max_length=40, device="cpu")
    folder = student.save(model, tmp_path / "student", {"teacher_name": "t", "base": "b"})
    assert student.read_provenance(folder) == {"teacher_name": "t", "base": "b"}
    weights = folder / "2_Dense" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="2_Dense/model.safetensors is not the file"):
        student.load(folder)


def test_broken_weights_are_a_clear_error(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "config.json",
            {"architectures": ["BertForSequenceClassification"]},
            "is a CrossEncoder or classifier",
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "SparseEncoder"},
            "is a SparseEncoder",
        ),
    ],
)
def test_models_of_another_kind_are_refused_before_they_are_loaded(
    tiny_model, tmp_path, file, content, message
):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "modules.json").unlink()
    (copy / file).write_text(json.dumps(content))
    (copy / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelError, match=message):
        models.load(copy)


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = path.read_bytes()
    parts = [path.with_suffix(f".{i}") for i in (1, 2)]
    parts[0].write_bytes(content[:20])
    parts[1].write_bytes(content[20:])
    return parts


def test_a_tokenizer_without_words_is_refused(tiny_model, tmp_path):
    """transformers makes one where its files are missing, and every text would get the same vector."""
    folder = tmp_path / "copied-in-part"
    shutil.copytree(tiny_model, folder)
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(ModelError, match="the tokenizer of .*copied-in-part knows no words"):
        models.load(folder)


def test_unpacking_checks_the_hash_and_leaves_nothing_behind(tmp_path):
    parts = _zip(tmp_path / "m.zip", {"m/model.safetensors": b"weights", "m/config.json": b"{}"})
    with pytest.raises(ModelError, match=r"not the published model.*expected 00"):
        _model_files._unpack(parts, tmp_path / "home" / "m", "00")
    assert not list((tmp_path / "home").iterdir())


def test_unpacking_never_leaves_its_folder(tmp_path):
    import hashlib

    members = {
        "m/model.safetensors": b"weights", "m/1_Pooling/config.json": b"{}", "m/run.py": b"boom", "m/../../evil.json": b"{}",
        "m/../evil.json": b"{}", "/m/absolute.json": b"{}", "m/desktop.ini": b"x",
    }  # fmt: skip
    parts = _zip(tmp_path / "m.zip", members)
    target = _model_files._unpack(
        parts, tmp_path / "home" / "m", hashlib.sha256(b"weights").hexdigest()
    )
    found = {
        p.relative_to(tmp_path / "home").as_posix()
        for p in (tmp_path / "home").rglob("*")
        if p.is_file()
    }
    assert {"m/model.safetensors", "m/1_Pooling/config.json"} <= found
    assert not any("evil" in name or name.endswith((".py", ".ini")) for name in found)
    assert not list(tmp_path.glob("evil*")) and target == tmp_path / "home" / "m"


def test_pieces_that_are_no_zip(tmp_path):
    (tmp_path / "1").write_bytes(b"no zip at all")
    with pytest.raises(ModelError, match="no zip"):
        _model_files._unpack([tmp_path / "1"], tmp_path / "m", "00")


def test_weights_are_hashed_once_in_a_process(tiny_model, tmp_path, monkeypatch):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    before = models.resolve(copy)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert models.resolve(copy) == before


def test_swapped_weights_are_noticed_though_size_and_time_are_the_same(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(b"a" * (2 << 20))
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    before = models.resolve(tmp_path / "m").fingerprint
    weights.write_bytes(b"b" * (2 << 20))
    os.utime(weights, ns=times)
    assert models.resolve(tmp_path / "m").fingerprint != before
