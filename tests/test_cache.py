import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import HashTeacher, sentences

from workbench import _shards
from workbench.cache import TargetCache
from workbench.data import Role, StoredTexts, Text
from workbench.errors import CacheError, DataError, TeacherError, WorkbenchError

TESTS = Path(__file__).parent


def expected(teacher, texts):
    return np.stack([teacher.vector(t.text, t.role) for t in texts])


def stored_and_right(cache, texts):
    targets = np.asarray(cache.targets(texts))
    np.testing.assert_allclose(targets, expected(cache.teacher, texts), atol=1e-3)


def flip(path, at=-1):
    """Change a bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_fill_and_read_back(tmp_path, hash_teacher):
    texts, seen = sentences(1500), []
    cache = TargetCache(tmp_path, hash_teacher)
    done = cache.fill(texts, on_progress=seen.append)
    assert (done.done, done.encoded, done.hits) == (1500, 1500, 0)
    assert seen[-1].total == seen[-1].encoded_total == 1500 and seen[-1].seconds_left == 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].texts_per_second > 0
    targets = cache.targets(texts)
    assert targets.shape == (1500, 16) and len(targets) == 1500
    exact = expected(hash_teacher, texts).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(targets), exact)
    for index in (5, np.array([1400, 3, 3, 700])):
        np.testing.assert_array_equal(targets[index], exact[index])
        assert targets[index].dtype == np.float32
    assert cache.fill([]).done == 0 and cache.targets([]).shape == (0, 16)


def test_a_text_is_encoded_once_for_each_role(tmp_path, hash_teacher):
    cache = TargetCache(tmp_path, hash_teacher)
    texts = [*[Text("again", "query")] * 700, "once", *[Text("again", "query")] * 700]
    assert cache.fill(texts).encoded == 2
    assert cache.fill(iter(texts)).encoded == 0
    assert sorted(hash_teacher.encoded) == ["again", "once"]
    assert cache.fill(["again"]).encoded == 1
    query, document = np.asarray(cache.targets([Text("again", "query"), "again"]))
    assert not np.allclose(query, document)
    assert cache.missing(("once", "four")) == [Text("four", "document")]


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"fingerprint": "ff"}, {"dimension": 8}, {"prompts": {"query": "q: "}}],
)
def test_nothing_old_comes_back_when_the_identity_changes(tmp_path, hash_teacher, change):
    texts = [Text("x", Role.QUERY)]
    TargetCache(tmp_path, hash_teacher).fill(texts)
    cache = TargetCache(tmp_path, HashTeacher(**change))
    with pytest.raises(CacheError, match="1 of 1 targets are not in"):
        cache.targets(texts)
    assert cache.fill(texts).encoded == 1
    stored_and_right(cache, texts)


def test_prompt_and_text_cannot_be_confused(tmp_path):
    one, two = HashTeacher(prompts={"query": "a"}), HashTeacher(prompts={"query": "ab"})
    key_one = TargetCache(tmp_path, one).keys([Text("bc", Role.QUERY)])
    key_two = TargetCache(tmp_path, two).keys([Text("c", Role.QUERY)])
    assert key_one != key_two


def test_a_plan_counts_what_is_missing(tmp_path, hash_teacher):
    cache, texts, reports = TargetCache(tmp_path, hash_teacher), sentences(3000), []
    size = 3000 * (16 * 2 + 16) / 1e6
    expected = f"3,000 of 3,000 vectors missing, {size:.1f} MB to store"
    assert cache.plan(texts + texts[:50]) == expected
    cache.fill(texts, on_progress=reports.append)
    assert (reports[0].encoded, reports[0].encoded_total) == (0, 3000)
    assert cache.plan(texts) == "all 3,000 vectors are cached"


def test_stop_keeps_what_is_done_and_the_next_fill_goes_on(tmp_path, hash_teacher):
    texts, stop = sentences(2000), threading.Event()
    cache = TargetCache(tmp_path, hash_teacher)
    done = cache.fill(texts, stop=stop, on_progress=lambda p: p.encoded > 600 and stop.set())
    assert 600 < done.encoded < 2000
    again = TargetCache(tmp_path, hash_teacher).fill(texts)
    assert again.encoded == 2000 - done.encoded


def test_a_stream_is_not_held_in_memory(tmp_path, hash_teacher, monkeypatch):
    monkeypatch.setattr("workbench.cache.CHUNK_TEXTS", 600)
    read, ahead = 0, []

    def stream():
        nonlocal read
        for i in range(3000):
            read += 1
            ahead.append(read - len(hash_teacher.encoded))
            yield f"text {i % 2000}"

    done = TargetCache(tmp_path, hash_teacher).fill(stream())
    assert (done.done, done.encoded) == (3000, 2000)
    assert max(ahead[:2000]) <= 601


CHILD = """
import sys; sys.path.insert(0, {tests!r})
from conftest import HashTeacher, sentences
from workbench.cache import TargetCache
import time
class Slow(HashTeacher):
    def encode(self, texts, role, *, stop=None):
        time.sleep({sleep})
        return super().encode(texts, role)
teacher = Slow()
cache = TargetCache({root!r}, teacher)
print("ready", flush=True)
print(cache.fill(sentences({count})).encoded, flush=True)
"""


def child(root, count, sleep=0.0, **options):
    code = CHILD.format(tests=str(TESTS), root=str(root), count=count, sleep=sleep)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_sigkill_loses_at_most_the_group_in_flight(tmp_path, hash_teacher):
    texts, stored = sentences(4000), 0
    for kill_after in (1, 2, 4):  # shards
        process = child(tmp_path, 4000, sleep=0.05)
        assert process.stdout.readline() == "ready\n"
        cache, deadline = TargetCache(tmp_path, hash_teacher), time.monotonic() + 60
        enough = stored + kill_after
        while len(cache) < enough and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(cache) >= enough
        stored = len(cache)
    assert 0 < stored < 4000
    cache = TargetCache(tmp_path, hash_teacher)
    assert cache.fill(texts).encoded == 4000 - stored
    assert not cache.damaged
    stored_and_right(cache, texts)


def _shard(cache):
    return max(_shards.listing(cache.folder), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "garbage", "header"])
def test_damage_is_noticed_named_and_only_its_texts_are_encoded_again(
    tmp_path, hash_teacher, damage
):
    first, second = sentences(600, seed=1), sentences(40, seed=2)
    cache = TargetCache(tmp_path, hash_teacher)
    cache.fill(first)
    victim = _shard(cache)
    cache.fill(second, merge=False)
    content = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "garbage":
        victim.write_bytes(os.urandom(len(content)))
    else:
        flip(victim, -100 if damage == "bit" else 12)
    with pytest.warns(UserWarning, match=victim.name[:8]):
        again = TargetCache(tmp_path, hash_teacher)
        assert again.fill(first + second).encoded == 600
    assert again.damaged == [victim.name]
    stored_and_right(again, first + second)


def test_a_damaged_shard_that_cannot_be_renamed_is_left_out(tmp_path, hash_teacher, monkeypatch):
    """In a cache that can only be read, it is found again at every look."""
    cache, texts = TargetCache(tmp_path, hash_teacher), sentences(100)
    cache.fill(texts)
    victim = _shard(cache)
    flip(victim)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    again = TargetCache(tmp_path, hash_teacher)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(UserWarning, match="checksum"):
        assert len(again.missing(texts)) == 100
    assert again.damaged == [victim.name] and victim.exists()


def test_half_written_files_are_never_taken_for_shards(tmp_path, hash_teacher):
    cache = TargetCache(tmp_path, hash_teacher)
    cache.fill(sentences(10))
    (cache.folder / ".writing-abc").write_bytes(b"half")
    os.utime(cache.folder / ".writing-abc", (1, 1))
    assert TargetCache(tmp_path, hash_teacher).fill(sentences(20)).encoded == 10
    assert not list(cache.folder.glob(".writing-*"))


def test_two_processes_share_the_work_of_one_list(tmp_path, hash_teacher):
    processes = [child(tmp_path, 3000, sleep=0.05) for _ in range(2)]
    counts = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        counts.append(int(out.split()[-1]))
    assert 3000 <= sum(counts) < 6000
    cache, texts = TargetCache(tmp_path, hash_teacher), sentences(3000)
    stored_and_right(cache, texts)
    assert not cache.damaged


def test_merging_leaves_few_files_and_every_target(tmp_path, hash_teacher, monkeypatch):
    monkeypatch.setattr("workbench._shards.MERGED_ROWS", 1024)
    texts, cache = sentences(3000), TargetCache(tmp_path, hash_teacher)
    reader = cache.embed(texts[:100])  # stays readable while its file is merged away
    for start in range(100, 3000, 100):
        cache.fill(texts[start : start + 100])
    assert len(_shards.listing(cache.folder)) <= 8 and len(cache) == 3000
    stored_and_right(cache, texts)
    np.testing.assert_allclose(reader[:], expected(hash_teacher, texts[:100]), atol=1e-3)


class FaultyTeacher(HashTeacher):
    def encode(self, texts, role, *, stop=None):
        vectors = super().encode(texts, role)
        vectors[[text.startswith("bad") for text in texts]] = np.nan
        vectors[[text.startswith("large") for text in texts]] *= 1e6
        return vectors


@pytest.mark.parametrize(("text", "message"), [("bad one", "NaN"), ("large", "dtype='float32'")])
def test_a_bad_vector_is_refused_and_the_others_are_kept(tmp_path, text, message):
    texts = [*sentences(20), Text(text, Role.QUERY)]
    cache = TargetCache(tmp_path, FaultyTeacher())
    with pytest.raises(TeacherError, match=f"'{text}': .*{message}"):
        cache.fill(texts)
    assert len(cache.missing(texts)) == 1


def test_float32_is_a_cache_of_its_own(tmp_path, hash_teacher):
    texts = sentences(10)
    half = TargetCache(tmp_path, hash_teacher)
    full = TargetCache(tmp_path, hash_teacher, dtype="float32")
    half.fill(texts)
    assert full.fill(texts).encoded == 10
    np.testing.assert_array_equal(np.asarray(full.targets(texts)), expected(hash_teacher, texts))
    with pytest.raises(CacheError, match="float16 or float32"):
        TargetCache(tmp_path, hash_teacher, dtype="int8")


def test_a_full_disk_ends_with_a_clear_error_and_the_rest_intact(tmp_path, hash_teacher):
    """A file size limit makes the kernel refuse writes just as a full disk does."""
    TargetCache(tmp_path, hash_teacher).fill(sentences(30))
    code = CHILD.format(tests=str(TESTS), root=str(tmp_path), count=900, sleep=0)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit
    )
    assert "WorkbenchError" in result.stderr and "cannot be written" in result.stderr
    cache = TargetCache(tmp_path, hash_teacher)
    assert not list(cache.folder.glob(".writing-*"))
    assert cache.fill(sentences(30)).encoded == 0
    cache.fill(sentences(900))
    stored_and_right(cache, sentences(900))
    assert not cache.damaged


def test_what_cannot_be_stored_is_noticed_before_the_teacher_works(
    tmp_path, hash_teacher, monkeypatch
):
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError, match="cannot be written"):
        TargetCache(tmp_path / "file" / "cache", hash_teacher).fill(sentences(10))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(WorkbenchError, match="make room"):
        TargetCache(tmp_path, hash_teacher).fill(sentences(100))
    assert not hash_teacher.encoded


def test_a_complete_cache_serves_where_nothing_can_be_written(tmp_path, hash_teacher, monkeypatch):
    cache = TargetCache(tmp_path, hash_teacher)
    cache.fill(sentences(40))

    def refuse(*_):
        raise CacheError("no writing here")

    monkeypatch.setattr(TargetCache, "write", refuse)
    monkeypatch.setattr(TargetCache, "check_writable", refuse)
    assert TargetCache(tmp_path, hash_teacher).fill(sentences(40)).hits == 40


@pytest.mark.parametrize("concurrency, batch_size", [(1, None), (3, 16)])
def test_every_text_is_encoded_once(tmp_path, concurrency, batch_size):
    """A paid teacher is paid once for each text."""
    teacher, texts = HashTeacher(), sentences(1200)
    teacher.concurrency, teacher.batch_size = concurrency, batch_size
    done = TargetCache(tmp_path, teacher).fill(texts + texts[:100])
    assert sorted(teacher.encoded) == sorted(text.text for text in texts)
    assert (done.done, done.encoded) == (1300, 1200)


def test_embed_hashes_a_text_once_and_returns_texts_with_their_targets(
    tmp_path, hash_teacher, monkeypatch
):
    cache, texts, hashed = TargetCache(tmp_path, hash_teacher), sentences(700), []
    key = cache._key
    monkeypatch.setattr(cache, "_key", lambda text: hashed.append(text) or key(text))
    targets = cache.embed(texts)
    assert hashed == texts == targets.texts
    np.testing.assert_allclose(targets[:], expected(hash_teacher, texts), atol=1e-3)
    assert (targets.keys == cache.keys(texts)).all()
    rows = np.array([5, 3, 5])
    part = targets.subset(rows)
    assert part.texts == [texts[5], texts[3], texts[5]] and part.shape == (3, 16)
    np.testing.assert_array_equal(part[:], targets[rows])
    training, held_out = targets.split()
    assert (len(training), len(held_out)) == (665, 35)
    assert {*training.texts, *held_out.texts} == {*texts}
    np.testing.assert_allclose(held_out[:], expected(hash_teacher, held_out.texts), atol=1e-3)
    again = cache.embed(texts[::-1]).split()[1]
    assert again.texts == held_out.texts  # whatever the order
    stored = StoredTexts.write(texts, tmp_path / "texts.arrow")
    part = cache.embed(stored).split()[1]
    assert isinstance(part.texts, StoredTexts) and [*part.texts] == held_out.texts


def test_embed_leaves_out_what_was_skipped_or_stopped(tmp_path):
    texts = [*sentences(199), Text("bad one", Role.QUERY)]
    cache = TargetCache(tmp_path, FaultyTeacher())
    with pytest.warns(UserWarning, match="1 of 200 texts got no target"):
        targets = cache.embed(texts)
    assert targets.texts == texts[:-1] and targets.shape == (199, 16)
    with pytest.raises(TeacherError, match="got no target"):
        cache.embed(texts, skip=0)
    stop = threading.Event()
    stop.set()
    assert cache.embed(texts[:20] + sentences(20, seed=9), stop=stop).texts == texts[:20]


@pytest.mark.parametrize("wrong", [None, "one text", [3]])
def test_what_is_not_texts_is_refused(tmp_path, hash_teacher, wrong):
    cache = TargetCache(tmp_path, hash_teacher)
    for call in (cache.fill, cache.embed, cache.targets, cache.plan, cache.missing, cache.keys):
        with pytest.raises(DataError):
            call(wrong)
    with pytest.raises(DataError):
        cache.fill(iter([7]))
    assert not hash_teacher.encoded
