"""The `workbench` command: its options, and what it prints when something goes wrong."""

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module

from workbench import __version__
from workbench._util import home
from workbench.errors import WorkbenchError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (0 done, 1 failed, 2 wrong usage, 130 stopped)."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if options.command == "lab":
        options.jupyter_options = rest
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        # What writes a release leaves nothing half done, so it ends at once.
        if options.command in ("publish", "push") or stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping at the next safe point; Ctrl-C again stops at once.", file=sys.stderr)

    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        # Imported now, because torch takes seconds that --help should not wait for.
        module = "lab" if options.command == "lab" else "commands"
        getattr(import_module(f"workbench.cli.{module}"), options.command)(options, stop)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        stop.set()
    if stop.is_set():
        print("stopped; the same command goes on from what is stored", file=sys.stderr)
    return 130 if stop.is_set() else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="workbench",
        description="Train a small text-embedding model into the vector space of a large one.",
    )
    top.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    texts = argparse.ArgumentParser(add_help=False)
    add = texts.add_argument_group("texts").add_argument
    add("--texts", default="docstrings", help="docstrings (the default), tutorial, a file, folder "
        "of files or in BEIR layout (its documents), or hub:OWNER/NAME")  # fmt: skip
    add("--column", nargs="+", help="the column with the texts, several (titles first), or a path "
        "such as ticket.text or messages[].content (default: text, or the only one)")  # fmt: skip
    add("--role", choices=["query", "document"], help="of all texts (default: the column `role`)")
    add("--encoding", help="of files that are not UTF-8, such as cp1252")
    add("--limit", type=_count, help="use only the first so many texts")
    add("--sample", type=_count, help="draw so many texts, evenly from each file and role")
    add("--dry-run", action="store_true", help="only print how much is to be done")

    whole = argparse.ArgumentParser(add_help=False)
    whole.add_argument("--passages", action=argparse.BooleanOptionalAction, default=True,
        help="cut documents into passages that the models read whole (the default)")  # fmt: skip

    teacher = argparse.ArgumentParser(add_help=False)
    add = teacher.add_argument_group("teacher").add_argument
    add("--teacher", help="the large model: a folder, a name on the hub, or PROVIDER:MODEL behind "
        "an API (openai, which most servers speak, cohere, voyage, jina)")  # fmt: skip
    add("--max-length", type=_count, help="tokens read of each text (default: the recipe's)")
    add("--cache", default=home() / "cache", help="folder of the target caches")
    add("--skip", type=float, default=0.01, metavar="SHARE",
        help="share of the texts that may get no target (default: 0.01)")  # fmt: skip
    add = teacher.add_argument_group("a teacher behind an API").add_argument
    add("--url", help="of the server, such as http://localhost:8000/v1")
    add("--key", metavar="NAME", help="environment variable with the key")
    add("--name", help="what the cache calls it; another name begins another cache")
    add("--tokenizer", help="model whose tokenizer counts tokens and cuts texts to --max-length")
    add("--price", type=float, help="of a million tokens")
    add("--budget", type=float, help="stop before the total price exceeds this")
    add("--requests-per-minute", type=float, help="at most")
    add("--tokens-per-minute", type=float, help="at most")

    student = argparse.ArgumentParser(add_help=False)
    add = student.add_argument_group("student").add_argument
    add("--student", required=True, help="folder of the student, or ready")
    add("--json", help="file for the tables (default: in build/)")

    def command(name: str, summary: str, *shared: argparse.ArgumentParser):
        """Add a command, and return the function that adds options to it."""
        sub = commands.add_parser(name, help=summary, description=f"{summary}.", parents=shared)
        sub.set_defaults(command=name)
        return sub.add_argument

    command("demo", "Distill docstrings in minutes and print the comparison")

    add = command(
        "cache", "Encode texts with the teacher and store the vectors", texts, whole, teacher
    )
    add("--workers", type=_count, help="parallel teachers for a folder's .parquet files, on Ray")
    add("--gpus-per-worker", type=float, default=0, help="default: 0")

    add = command("distill", "Train a student on a teacher's vectors", texts, whole, teacher)
    add("--recipe", help="rotation, ridge, adapt, in-domain, tour, a TOML file; decides what"
        " no option names (default: in-domain below 5,000 texts, else tour)")  # fmt: skip
    add("--base", help="the small model that the student starts from")
    add("--output", required=True, help="folder for the student")
    add("--start", help="closed-form, rotation, ridge, random, ready, or a student's folder")
    add("--epochs", type=_count, help="passes over the texts in one learning-rate cycle")
    add("--batch-size", type=_count, help="texts a step, over all processes")
    add("--fresh", action="store_true", help="start over, whatever an earlier run has made")

    add = command("evaluate", "Compare student and teacher on a data set", student, whole, teacher)
    add("--collection", default="tutorial", help="a folder in BEIR layout (default: tutorial)")
    add("--curves", action="store_true", help="measure truncated and quantized vectors too")

    add = command("benchmark", "Run teacher, base, student and pair on mteb", student, teacher)
    add("--tasks", nargs="+", required=True, help="mteb's names, or folders as in docs/guide.md")
    add("--model", action="append", default=[], help="another model to compare with; repeatable")

    add = command("publish", "Write a student as a folder that others can load")
    add("--student", required=True, help="folder of the student, as distill wrote it")
    add("--output", required=True, help="new or empty folder")
    add("--results", nargs="+", default=[], help="reports of `workbench evaluate` for the card")
    add("--name", help="what the card calls it, such as me/my-student (default: the folder's name)")
    add("--pair", action="store_true", help="teacher for documents and student for queries in one")
    add("--onnx", action="store_true", help="the whole student as ONNX too, in float32 and int8")
    add("--license", default="apache-2.0", help="as the hub abbreviates it (default: apache-2.0)")
    add("--language", nargs="+", default=["en"], help="of the texts, such as de (default: en)")

    add = command("push", "Send a published folder to the hub, with HF_TOKEN or `hf auth login`")
    add("folder", help="what `workbench publish` wrote")
    add("name", help="OWNER/NAME on the hub")
    add("--dry-run", action="store_true", help="only list what would be sent")
    add("--public", action="store_true", help="make a new model public; it is private otherwise")

    command("lab", "Open the notebooks in JupyterLab, which takes all other options")
    return top


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)
