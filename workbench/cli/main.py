"""The `workbench` command: parse, call, say what went wrong."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from workbench import __version__
from workbench._model_files import read_json, resolve
from workbench._util import PROJECT, expanded, home, write_json
from workbench.errors import WorkbenchError

Option = Callable[..., argparse.Action]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (0 done, 1 failed, 2 wrong usage, 130 stopped)."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(
        f"note: {_as_options(message)}", file=sys.stderr
    )
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        if stop.is_set() or options.at_once:
            stop.set()
            raise KeyboardInterrupt
        stop.set()
        print(
            "\nStopping at the next safe point; press Ctrl-C again to stop at once.",
            file=sys.stderr,
        )

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask_to_stop)
    try:
        student = getattr(options, "student", None)
        if student not in (None, "ready") and not os.path.isdir(expanded(student)):
            resolve(student)  # a name that is wrong shows before torch and others are imported
        run = getattr(import_module(f"workbench.cli.{options.module}"), options.command)
        run(options) if options.at_once else run(options, stop)
    except WorkbenchError as error:
        print(f"workbench: {_as_options(error)}", file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        kept = (
            ""
            if options.at_once
            else "; what was stored is kept, and the same command continues from there"
        )
        print(f"stopped{kept}", file=sys.stderr)
        return 130
    return 130 if stop.is_set() else 0


def _as_options(message: object) -> str:
    """Write options of `read_texts` that a message names as options of the command."""
    named = r"""wb\.read_texts\(\.\.\., (\w+)=(?:\.\.\.|(\d+|'[^']*'|"[^"]*"))\)"""
    said = re.sub(named, lambda option: f"--{option[1]} {option[2] or ''}".rstrip(), str(message))
    return said.replace(" column=", " --column")


def lab(options: argparse.Namespace) -> None:
    """Open the notebooks in JupyterLab."""
    notebooks = PROJECT / "notebooks"
    if not notebooks.is_dir():
        raise WorkbenchError(
            f"no notebooks at {notebooks}: run this from a checkout of the project"
        )
    folder = notebooks if options.originals else _copies(notebooks, home() / "lab")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={options.port}"]
    command += [
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None",
    ]  # asks no network, and nobody about it
    if options.no_browser:
        command.append("--no-browser")
    if (
        hasattr(os, "geteuid") and os.geteuid() == 0
    ):  # in a container; the server still listens on this machine only
        command.append("--allow-root")
    command += [*options.jupyter_options, "--LabApp.default_url=/lab/tree/your_texts.ipynb"]
    shared = [
        str(notebooks),
        str(PROJECT / "examples"),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": os.pathsep.join(shared)})


def _copies(notebooks: Path, folder: Path) -> Path:
    """Copy the notebooks, so that running one changes no source; a copy whose cells were edited stays as it is."""
    edited = []
    for path in sorted(notebooks.glob("*.ipynb")):
        notebook, copy = json.loads(path.read_text(encoding="utf-8")), folder / path.name
        now = read_json(copy)
        if now and now.get("metadata", {}).get("copied") != _cells(now):
            edited.append(copy.stem)
        elif not now or _cells(now) != _cells(notebook):
            notebook["metadata"]["copied"] = _cells(notebook)
            write_json(copy, notebook)
    kept = (
        f" Edited, and left as they are: {', '.join(edited)}; delete one to get it anew."
        if edited
        else ""
    )
    print(f"The notebooks are copies in {folder}.{kept}")
    return folder


def _cells(notebook: dict) -> str:
    """Return a digest of what a notebook's cells say, without what running them printed."""
    cells = [
        [cell.get("cell_type"), "".join(cell.get("source", ""))]
        for cell in notebook.get("cells", [])
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Train a small text-embedding model into the vector space of a large one.",
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        module: str, name: str, summary: str, details: str, *shared: Callable, at_once: bool = False
    ) -> Option:
        """Add a command and return what adds an option to it. Ctrl-C ends one at once that leaves nothing half done."""
        sub = commands.add_parser(name, help=summary, description=f"{summary}. {details}")
        sub.set_defaults(module=module, command=name, at_once=at_once)
        for options in shared:
            options(sub)
        return sub.add_argument

    option = command("distilling", "demo", "Run the main job once on docstrings and print the comparison",
                     "Minutes on two cores; a second run uses what the first one finished.")  # fmt: skip
    option("--fresh", action="store_true", help="train again instead of using an earlier run")

    option = command("distilling", "cache", "Encode texts with the teacher and store the vectors",
                     "Can be stopped and repeated at any time: what is stored is never encoded again. The teacher is "
                     "all-mpnet-base-v2 if you name none.", _text_options, _teacher_options)  # fmt: skip
    option("--workers", type=_positive,
           help="number of parallel teachers for a folder's .parquet files, on the Ray cluster of RAY_ADDRESS or on this machine (extra `ray`)")  # fmt: skip
    option(
        "--gpus-per-worker",
        type=float,
        default=0,
        help="GPUs of each of these teachers (default: %(default)s)",
    )

    option = command("distilling", "distill", "Train a student on a teacher's vectors",
                     "Targets are cached first. Stopped with Ctrl-C, the same command continues where it was.",
                     _text_options, _teacher_options)  # fmt: skip
    option("--speeds", metavar="DEVICE:TEACHER:STUDENT",
           help="with --dry-run: texts a second of another device, instead of timing this one")  # fmt: skip
    option("--recipe",
           help="tour, in-domain, broad, adapt, redact-ir, redact-mt, redact-ir-fast or redact-mt-fast: decides what is not named here "
                "(default: in-domain for fewer than 5,000 texts, otherwise tour)")  # fmt: skip
    option("--base", help="the small model that the student starts from")
    option("--output", required=True, help="folder for the student")
    option("--start", metavar="START", help="how the head starts: closed-form or random; or the student to go on from: "
           "ready, or a student's folder")  # fmt: skip
    option("--epochs", type=_positive, help="passes over the texts in one learning-rate cycle")
    option("--restarts", type=_positive, help="number of learning-rate cycles")
    option("--batch-size", type=_positive, help="texts a step, over all processes")
    option("--learning-rate", type=float, help="at the start of each cycle")
    option("--seed", type=int, help="of batches and of a random head")
    option("--unchecked", action="store_const", const=False, dest="check_pairs",
           help="train though texts and targets look out of step")  # fmt: skip
    option(
        "--fresh",
        action="store_true",
        help="start over instead of from a checkpoint or a finished student",
    )

    option = command("measuring", "evaluate", "Compare a student with its teacher on a retrieval data set",
                     "Prints teacher, untrained base, student, and student queries on the teacher's documents.",
                     _student_options, _teacher_options)  # fmt: skip
    option(
        "--collection",
        default="tutorial",
        help="'tutorial' or a folder in BEIR layout (default: %(default)s)",
    )
    option(
        "--curves",
        action="store_true",
        help="measure truncated and quantized vectors too, as real indexes",
    )
    option(
        "--json",
        help="where to write the table (default: evaluate-NAME.json in the workbench's folder)",
    )

    option = command("measuring", "benchmark", "Run teacher, base, student and pair on tasks of mteb",
                     "Tasks by name need the hub; folders on this machine do not. Finished evaluations are kept, and the "
                     "same command continues from there.", _student_options, _teacher_options)  # fmt: skip
    option("--tasks", nargs="+", required=True, metavar="TASK",
           help="tasks or benchmarks by mteb's names (SciFact, BEIR, 'MTEB(eng, v2)'), or folders in the layouts of "
                "docs/guide.md")  # fmt: skip
    option(
        "--model",
        action="append",
        default=[],
        help="another sentence-transformers model to compare with",
    )
    option(
        "--results",
        help="folder for mteb's results (default: benchmarks/ in the workbench's folder)",
    )
    option(
        "--json",
        help="where to write the tables (default: benchmark.json in the workbench's folder)",
    )

    option = command("publishing", "publish", "Write a student as a folder that others can load",
                     "The model, its card and, on request, the teacher and ONNX. Nothing leaves this machine.",
                     at_once=True)  # fmt: skip
    option("--student", required=True, help="folder of the student, as distill wrote it")
    option("--output", required=True, help="new or empty folder")
    option("--results", nargs="+", default=[], metavar="JSON",
           help="reports of `workbench evaluate`, whose figures go into the card")  # fmt: skip
    option(
        "--name", help="what the card calls it, such as me/my-student (default: the folder's name)"
    )
    option(
        "--pair",
        action="store_true",
        help="the teacher for documents and the student for queries, as one model",
    )
    option("--teacher", help="where the teacher is (default: where distill had it)")
    option("--onnx", action="store_true", help="the whole student as ONNX too, in float32 and int8")
    option(
        "--latency",
        metavar="JSON",
        help="report of `python -m bench.latency`, whose figures go into the card",
    )
    option(
        "--license", default="apache-2.0", help="as the hub abbreviates it (default: %(default)s)"
    )
    option(
        "--language",
        nargs="+",
        default=["en"],
        help="of the texts, such as de or pt-BR (default: en)",
    )

    option = command("publishing", "push", "Send a published folder to the hub",
                     "With the token of HF_TOKEN or of `hf auth login`. A new model is private unless you say --public.",
                     at_once=True)  # fmt: skip
    option("folder", help="what `workbench publish` wrote")
    option("name", help="owner/name on the hub")
    option("--dry-run", action="store_true", help="only list what would be sent")
    option("--public", action="store_true", help="make a new model public")

    option = command("main", "lab", "Open the notebooks in JupyterLab", "Listens on this machine only, with a token.",
                     at_once=True)  # fmt: skip
    option("--port", type=_positive, default=8888, help="port to listen on (default: %(default)s)")
    option("--no-browser", action="store_true", help="print the address instead of opening it")
    option(
        "--originals", action="store_true", help="open the notebooks themselves instead of copies"
    )
    option("jupyter_options", nargs="*", help="passed on to JupyterLab, after --")
    return parser


def _text_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--texts", default="docstrings",
           help="texts to learn from: 'docstrings' (of the installed libraries, the default), 'tutorial', a file (.csv, "
                ".tsv, .txt, .md, .json, .jsonl, also as .gz; .parquet), a folder of files, a folder in BEIR layout (its documents; queries "
                "and judgments stay unseen), or hub:NAME:COLUMN:ROLE for a data set of the hub")  # fmt: skip
    option(
        "--column",
        help="the column with the texts (default: `text`, or the only column of strings)",
    )
    option("--role", choices=["query", "document"],
           help="of all texts (default: the column `role` where there is one, otherwise document)")  # fmt: skip
    option("--encoding", help="of files that are not UTF-8, such as cp1252 or utf-16-le")
    option(
        "--passages",
        type=_positive,
        metavar="WORDS",
        help="cut long texts into passages of about so many words",
    )
    option("--limit", type=_positive, help="use only the first so many texts")
    option(
        "--sample",
        type=_positive,
        help="draw so many texts from a folder of files, evenly from each file and role",
    )
    option("--vectors",
           help="existing vectors instead of a teacher: a .npy file with a row for each of --texts, or the column of the "
                ".parquet file or data set of --texts that has them")  # fmt: skip
    option(
        "--dry-run",
        action="store_true",
        help="only say what is ahead, from a minute's timing on this machine",
    )


def _student_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--student",
        required=True,
        help="folder of the student, or ready: the one that comes with the package",
    )
    option(
        "--split",
        default="test",
        help="which split or judgments of a folder to use (default: %(default)s)",
    )
    option(
        "--base",
        help="the untrained model to compare with (default: what the student started from)",
    )


def _teacher_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--teacher",
           help="the large model: a folder, a packaged model, a name on the hub, or PROVIDER:MODEL behind an API (openai, "
                "which most servers speak, cohere, voyage, jina)")  # fmt: skip
    option(
        "--max-length",
        type=_positive,
        help="tokens read of each text (default: what the recipe or the student reads; 96 in `cache`)",
    )
    option(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="of the teacher (default: auto)",
    )
    option(
        "--cache", help="folder of the target caches (default: cache/ in the workbench's folder)"
    )
    option("--skip", type=float, metavar="SHARE",
           help="go on without texts that get no target, such as one that an API refuses, up to this share (default: 0.01)")  # fmt: skip
    option = parser.add_argument_group("a teacher behind an API").add_argument
    option(
        "--url", help="of the server, such as http://localhost:8000/v1, if not the provider's own"
    )
    option(
        "--key",
        metavar="NAME",
        help="the environment variable with the key (default: the provider's)",
    )
    option(
        "--name",
        help="what the cache calls it (default: model and server); another name begins another cache",
    )
    option(
        "--dimensions", type=_positive, help="width to ask for (default: found by a first request)"
    )
    option("--tokenizer", help="model whose tokenizer counts tokens and cuts texts to --max-length")
    option("--price", type=float, help="of a million tokens")
    option("--budget", type=float, help="stop before the total price exceeds this")
    option("--requests-per-minute", type=float, help="at most")
    option("--tokens-per-minute", type=float, help="at most")
    option("--concurrency", type=_positive, help="requests at the same time")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
