from dataclasses import replace

import _course
import pytest
from conftest import HashTeacher, sentences

from workbench import student
from workbench.cache import TargetCache
from workbench.errors import WorkbenchError
from workbench.teachers import FunctionTeacher


def test_profiles_go_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_PROFILE", raising=False)
    quick = _course.profile()
    monkeypatch.setenv("WORKBENCH_PROFILE", "full")
    full = _course.profile()
    assert (quick.name, full.name) == ("quick", "full")
    assert full.config.epochs > quick.config.epochs and full.pairs is None
    assert len({quick.folder, full.folder}) == 2  # neither takes the other's student
    monkeypatch.setenv("WORKBENCH_PROFILE", "huge")
    with pytest.raises(WorkbenchError, match="'huge': choose from quick, full"):
        _course.profile()


def test_notebooks_take_a_student_of_their_own_teacher_only(monkeypatch, tmp_path, tiny_model):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(_course, "TOUR", replace(_course.TOUR, base=str(tiny_model), max_length=40))
    lesson = sentences(40)

    def cached(name):
        teacher = HashTeacher(name=name)
        cache = TargetCache(tmp_path / "cache", teacher)
        cache.fill(lesson)
        return cache

    mine, other = cached("mine"), cached("other")
    start = _course.learned(mine, lesson)
    assert start.name == "closed-form" and student.read_provenance(start)["settings"] is None
    about = student.read_provenance(start)
    trained = student.save(student.load(start), _course.profile().folder / "student", about)
    assert _course.learned(mine, lesson) == trained
    assert _course.learned(other, lesson) == start
    (trained / "model.safetensors").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="is not used .* delete it, or run notebook 2 again"):
        assert _course.learned(mine, lesson).name == "closed-form"
    made = (start / "model.safetensors").stat().st_mtime_ns
    with pytest.warns(UserWarning):
        _course.learned(mine, lesson)
    assert (
        start / "model.safetensors"
    ).stat().st_mtime_ns == made  # what has learned the same is taken again


def letters(texts):
    return [[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts]


def test_more_like_picks_what_resembles_and_no_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(_course, "SAME", 0.999)
    model = FunctionTeacher(letters)
    pool = ["aaa b", "aaab", "hhh g", "aa bb", "hhhh", "aaaaa bb", "h a", "ab ab ab c"]
    picked = _course.more_like(["aaa bb"], pool, 3, model, avoid=["aa bb"])
    # "aaab" is a copy of "aaa b", and "aa bb" is evaluated.
    assert [text.text for text in picked] == ["aaaaa bb", "aaa b", "ab ab ab c"]
    monkeypatch.setattr(_course, "SAME", 0.9)
    assert len(_course.more_like(["aaa bb"], pool, 100, model)) < 6
