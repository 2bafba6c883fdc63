import json
import os
import shutil
import zipfile

import pytest
from conftest import make_tiny_model  # noqa: F401

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
    with pytest.raises(ModelError, match=r"(?s)Tried:.*folder nobody/no-such-model.*hub: not in its cache"):
        models.resolve("nobody/no-such-model")
    with pytest.raises(ModelError, match="not a model's name"):
        models.resolve("no such model!")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(_model_files._PACKAGES, models.MINILM, (["no-such-distribution"], "00"))
    with pytest.raises(ModelError, match=r"(?s)no-such-distribution is not installed; `make models`"):
        models.resolve("all-MiniLM-L6-v2")


def test_pickled_weights_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no weights"):
        models.resolve(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="pickled weights only"):
        models.resolve(tmp_path)


def test_broken_weights_are_a_clear_error(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"architectures": ["BertForSequenceClassification"]}, "is a CrossEncoder or classifier"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "is a SparseEncoder"),
        ("config.json", {"model_type": "clip", "vision_config": {}}, "is a model of images"),
        ("1_Pooling/config.json", {"model_type": "clip"}, "is a model of images"),
    ],
)
def test_models_of_another_kind_are_refused_before_they_are_loaded(tiny_model, tmp_path, file, content, message):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "modules.json").unlink()
    (copy / file).write_text(json.dumps(content))
    (copy / "model.safetensors").write_bytes(b"never read")
    for use in (
        models.load,
        models.load_model,
        lambda path: LocalTeacher(str(path)),
        lambda path: student.build(path, 8),
    ):
        with pytest.raises(ModelError, match=message):
            use(copy)


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = path.read_bytes()
    parts = [path.with_suffix(f".{i}") for i in (1, 2)]
    parts[0].write_bytes(content[:20])
    parts[1].write_bytes(content[20:])
    return parts


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
    target = _model_files._unpack(parts, tmp_path / "home" / "m", hashlib.sha256(b"weights").hexdigest())
    found = {p.relative_to(tmp_path / "home").as_posix() for p in (tmp_path / "home").rglob("*") if p.is_file()}
    assert {"m/model.safetensors", "m/1_Pooling/config.json"} <= found
    assert not any("evil" in name or name.endswith((".py", ".ini")) for name in found)
    assert not list(tmp_path.glob("evil*")) and target == tmp_path / "home" / "m"


def test_pieces_that_are_no_zip(tmp_path):
    (tmp_path / "1").write_bytes(b"no zip at all")
    with pytest.raises(ModelError, match="do not join to a zip"):
        _model_files._unpack([tmp_path / "1"], tmp_path / "m", "00")


def test_swapped_weights_are_noticed_though_size_and_time_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(b"a" * (2 << 20))
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    before = models.resolve(tmp_path / "m").fingerprint
    weights.write_bytes(b"b" * (2 << 20))
    os.utime(weights, ns=times)
    assert models.resolve(tmp_path / "m").fingerprint != before
