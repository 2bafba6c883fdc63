import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from workbench import models, student
from workbench.errors import ModelError


@pytest.fixture
def copied(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copied")


def test_the_fingerprint_follows_the_content_of_a_folder(tiny_model, copied):
    files = models.resolve(tiny_model)
    assert files.path == tiny_model and models.resolve(str(tiny_model)) == files
    assert models.resolve(copied).fingerprint == files.fingerprint
    config = json.loads((copied / "1_Pooling" / "config.json").read_text())
    (copied / "1_Pooling" / "config.json").write_text(json.dumps(config | {"pooling_mode": "cls"}))
    assert models.resolve(copied).fingerprint != files.fingerprint


def test_an_unknown_name_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ModelError, match=r"nobody/no-such-model.* was not found.*hub"):
        models.resolve("nobody/no-such-model")
    monkeypatch.setitem(models._PACKAGES, models.MINILM, (["no-such-distribution"], "00"))
    with pytest.raises(ModelError, match="make models"):
        models.resolve("all-MiniLM-L6-v2")


@pytest.fixture
def with_dense(tiny_model, tmp_path):
    """A model laid out as LaBSE and sentence-t5 are: safetensors, and a pickle for the Dense."""
    modules = [*list(models.load_model(tiny_model, device="cpu").children())[:2], Dense(32, 16)]
    folder = tmp_path / "dense"
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_refused_and_can_be_converted(with_dense, tmp_path):
    with pytest.raises(ModelError, match="pickles"):
        models.load_model(with_dense)
    converted = tmp_path / "converted"
    SentenceTransformer(str(with_dense), device="cpu").save_pretrained(str(converted))
    assert models.load_model(converted).get_embedding_dimension() == 16
    before = models.resolve(converted).fingerprint
    with (converted / "2_Dense" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    assert models.resolve(converted).fingerprint != before  # that Dense alone is another
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="lacks .safetensors weights"):
        models.resolve(tmp_path / "empty")


@pytest.mark.slow
def test_what_a_loader_opens_is_in_the_fingerprint(copied):
    """Python's own opening of files is watched in another process."""
    code = (
        "import sys; from workbench import models; folder, opened = sys.argv[1], set()\n"
        "files = models.resolve(folder)\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.add(str(args[0])))\n"
        "models.load_model(files); print(*(path for path in opened if folder in path), sep='\\n')"
    )
    for name in ("tf_model.h5", "onnx/model.onnx", "training_args.bin", ".hidden"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("x")
    command = [sys.executable, "-c", code, str(copied)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    opened = {Path(line) for line in lines if line and Path(line).is_file()}
    assert copied / "1_Pooling" / "config.json" in opened
    assert {path.suffix for path in opened - {copied / "README.md"}} <= set(models._READ)


def test_code_that_comes_with_a_model_is_fingerprinted_and_run_only_if_asked(
    copied, tmp_path, monkeypatch
):
    cache = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    listed = json.loads((copied / "modules.json").read_text())
    listed[2] |= {"type": "own.Own", "path": ""}
    (copied / "modules.json").write_text(json.dumps(listed))
    fingerprints = set()
    for factor in (1, 2):
        (copied / "own.py").write_text(
            "from sentence_transformers.base.modules import Module\n\n"
            "class Own(Module):\n"
            "    def forward(self, features, **kwargs):\n"
            f"        features['sentence_embedding'] *= {factor}\n"
            "        return features\n"
            "    def save(self, *args, **kwargs): pass\n"
            "    @classmethod\n"
            "    def load(cls, *args, **kwargs): return cls()\n"
        )
        fingerprints.add(models.resolve(copied).fingerprint)
    assert len(fingerprints) == 2
    assert models.load_model(copied, device="cpu", trust_remote_code=True)
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_model(copied, device="cpu")


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


@pytest.mark.parametrize(
    ("pattern", "content", "message"),
    [
        ("model.safetensors", b"not safetensors", "cannot be loaded"),
        ("1_Pooling/config.json", None, "cannot be loaded"),
        ("token*", None, "knows no words"),  # transformers makes an empty tokenizer of nothing
    ],
)
def test_a_damaged_copy_is_a_clear_error(copied, pattern, content, message):
    for path in copied.glob(pattern):
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        models.load_model(copied)


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("config.json", {"architectures": ["BertForSequenceClassification"]}, "CrossEncoder"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
    ],
)
def test_models_of_another_kind_are_refused_before_they_are_loaded(copied, file, content, kind):
    (copied / "modules.json").unlink()
    (copied / file).write_text(json.dumps(content))
    (copied / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelError, match=f"is a {kind}"):
        models.load_model(copied)


def test_unpacking_checks_the_hash_and_never_leaves_its_folder(tmp_path):
    harmless = {"m/model.safetensors": b"weights", "m/1_Pooling/config.json": b"{}"}
    names = ("m/run.py", "m/../../evil.json", "m/../evil.json", "/m/absolute.json", "m/desktop.ini")
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name, content in (harmless | dict.fromkeys(names, b"{}")).items():
            archive.writestr(name, content)
    content = (tmp_path / "m.zip").read_bytes()
    parts = [tmp_path / "parts" / name for name in "12"]
    parts[0].parent.mkdir()
    parts[0].write_bytes(content[:20])
    parts[1].write_bytes(content[20:])
    home = tmp_path / "home"
    with pytest.raises(ModelError, match="not the published model"):
        models._unpack(parts, home / "m", "00")
    assert not list(home.iterdir())
    models._unpack(parts, home / "m", hashlib.sha256(b"weights").hexdigest())
    files = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert files - {"m/m/absolute.json"} == set(harmless)
    assert not list(tmp_path.glob("evil*"))


def test_weights_are_hashed_once_and_again_when_they_were_swapped(copied, monkeypatch):
    weights = copied / "model.safetensors"
    before, content = models.resolve(copied).fingerprint, weights.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        assert models.resolve(copied).fingerprint == before
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(weights, ns=times)  # size and time are the same
    assert models.resolve(copied).fingerprint != before
