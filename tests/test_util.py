"""Whole files and folders, room, missing extras, and arrays of every form."""

import json
import os
import time

import numpy as np
import pytest
import torch

from workbench import _util
from workbench._util import checked, need, whole_folder, whole_number, write_json, write_whole
from workbench.errors import WorkbenchError


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_whole(tmp_path / "new" / "file.bin", b"first")

    def half(scratch):
        assert scratch.suffix == ".bin" and scratch.parent == path.parent
        scratch.write_bytes(b"half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_whole(path, half)
    assert path.read_bytes() == b"first" and os.listdir(path.parent) == ["file.bin"]
    write_whole(path, lambda scratch: scratch.write_bytes(b"second"))
    assert path.read_bytes() == b"second"
    assert json.loads(write_json(tmp_path / "a.json", {"a": 1}).read_text()) == {"a": 1}
    with pytest.raises(WorkbenchError, match="file.bin/below cannot be written: "):
        write_whole(path / "below", b"x")


def test_files_are_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        assert write_whole(tmp_path / "file", b"x").stat().st_mode & 0o777 == 0o644
        with whole_folder(tmp_path / "folder") as scratch:
            (scratch / "file").touch(mode=0o600)
        assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    with whole_folder(folder) as scratch:
        (scratch / "old").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(folder) as scratch:
        (scratch / "half").write_text("half")
        raise RuntimeError
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["folder"]
    for name in (".writing-old", ".writing-new"):  # of processes that were killed
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".writing-old", (1, time.time() - 2 * _util.ABANDONED_SECONDS))
    with whole_folder(folder) as scratch:
        (scratch / "new").write_text("new")
    assert os.listdir(folder) == ["new"] and set(os.listdir(tmp_path)) == {".writing-new", "folder"}


def test_extras_and_whole_numbers_are_checked():
    with pytest.raises(WorkbenchError, match=r"pip install 'teacher-aligned-workbench\[any\]'"):
        need("no_such_package.part", "any")
    assert type(whole_number(np.int64(3), "k")) is int and whole_number(0, "k", 0) == 0
    for wrong in ("3", 2.5, True, None, 0):
        with pytest.raises(WorkbenchError, match="k is"):
            whole_number(wrong, "k")


@pytest.mark.parametrize(
    "form",
    [np.eye(3, dtype=int), torch.eye(3, requires_grad=True), torch.eye(3, dtype=torch.bfloat16), np.eye(3).tolist()],
)  # fmt: skip
def test_vectors_of_every_form(form):
    vectors = checked(form, "vectors")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.eye(3))


@pytest.mark.parametrize("wrong", [[[1], [1, 2]], ["a"], None, np.eye(2) * 1j, [], np.ones(3), [[np.nan]]])  # fmt: skip
def test_what_is_not_vectors(wrong):
    with pytest.raises(WorkbenchError, match="vectors: "):
        checked(wrong, "vectors")
