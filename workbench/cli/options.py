"""The commands and their options."""

from __future__ import annotations

import argparse

from workbench import __version__


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="workbench",
        description="Train a small text-embedding model into the vector space of a large one.",
    )
    top.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    texts, teacher = _text_options(), _teacher_options()
    student = argparse.ArgumentParser(add_help=False)
    student.add_argument("--student", required=True, help="folder of the student, or ready")
    student.add_argument("--split", default="test", help="of a folder (default: test)")
    student.add_argument(
        "--base", help="the untrained model (default: the one that the student started from)"
    )

    def command(module: str, name: str, summary: str, *shared: argparse.ArgumentParser):
        """Add a command of a module, and return the function that adds options to it."""
        # Where nothing is left half done, Ctrl-C ends a command at once.
        at_once = module in ("publishing", "lab")
        sub = commands.add_parser(name, help=summary, description=f"{summary}.", parents=shared)
        sub.set_defaults(module=module, command=name, at_once=at_once)
        return sub.add_argument

    add = command("distilling", "demo", "Distill docstrings in minutes and print the comparison")
    add("--fresh", action="store_true", help="train again instead of using an earlier run")

    summary = "Encode texts with the teacher and store the vectors; what is stored stays"
    add = command("distilling", "cache", summary, texts, teacher)
    add("--workers", type=_count, help="parallel teachers for a folder's .parquet files, on Ray")
    add("--gpus-per-worker", type=float, default=0, help="GPUs of each worker (default: 0)")

    summary = "Train a student on a teacher's vectors; a stopped run goes on"
    add = command("distilling", "distill", summary, texts, teacher)
    add("--recipe", help="tour, in-domain, broad, adapt, or a TOML file of recipes/; decides what "
        "no option names (default: in-domain for fewer than 5,000 texts, otherwise tour)")  # fmt: skip
    add("--base", help="the small model that the student starts from")
    add("--output", required=True, help="folder for the student")
    add("--start", help="of the head: closed-form, random, ready, or a student's folder")
    add("--epochs", type=_count, help="passes over the texts in one learning-rate cycle")
    add("--restarts", type=_count, help="number of learning-rate cycles")
    add("--batch-size", type=_count, help="texts a step, over all processes")
    add("--learning-rate", type=float, help="at the start of each cycle")
    add("--seed", type=int, help="of batches and of a random head")
    add("--unchecked", action="store_const", const=False, dest="check_pairs",
        help="train though texts and targets look out of step")  # fmt: skip
    add("--fresh", action="store_true", help="start over, whatever an earlier run has made")

    summary = "Compare a student with its teacher on a retrieval data set"
    add = command("measuring", "evaluate", summary, student, teacher)
    add("--collection", default="tutorial", help="a folder in BEIR layout (default: tutorial)")
    add("--curves", action="store_true", help="measure truncated and quantized vectors too")
    add("--json", help="file for the table (default: evaluate-NAME.json below build/)")

    summary = "Run teacher, base, student and pair on tasks of mteb; finished ones are kept"
    add = command("measuring", "benchmark", summary, student, teacher)
    add("--tasks", nargs="+", required=True, help="mteb's names, or folders as in docs/guide.md")
    add("--model", action="append", default=[], help="another model to compare with; repeatable")
    add("--results", help="folder for mteb's results (default: benchmarks/ below build/)")
    add("--json", help="file for the tables (default: benchmark.json below build/)")

    summary = "Write a student as a folder that others can load; nothing leaves this machine"
    add = command("publishing", "publish", summary)
    add("--student", required=True, help="folder of the student, as distill wrote it")
    add("--output", required=True, help="new or empty folder")
    add("--results", nargs="+", default=[], help="reports of `workbench evaluate` for the card")
    add("--name", help="what the card calls it, such as me/my-student (default: the folder's name)")
    add("--pair", action="store_true", help="teacher for documents and student for queries in one")
    add("--teacher", help="where the teacher is (default: where distill had it)")
    add("--onnx", action="store_true", help="the whole student as ONNX too, in float32 and int8")
    add("--latency", help="report of `python -m bench.latency` for the card")
    add("--license", default="apache-2.0", help="as the hub abbreviates it (default: apache-2.0)")
    add("--language", nargs="+", default=["en"], help="of the texts, such as de (default: en)")

    summary = "Send a published folder to the hub, with the token of HF_TOKEN or `hf auth login`"
    add = command("publishing", "push", summary)
    add("folder", help="what `workbench publish` wrote")
    add("name", help="OWNER/NAME on the hub")
    add("--dry-run", action="store_true", help="only list what would be sent")
    add("--public", action="store_true", help="make a new model public; it is private otherwise")

    add = command("lab", "lab", "Open the notebooks in JupyterLab, on this machine only")
    add("--port", type=_count, default=8888, help="port to listen on (default: 8888)")
    add("--no-browser", action="store_true", help="print the address instead of opening it")
    add("--originals", action="store_true", help="open the notebooks themselves, not copies")
    add("jupyter_options", nargs="*", help="passed on to JupyterLab, after --")
    return top


def _text_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument_group("texts").add_argument
    add("--texts", default="docstrings", help="docstrings (the default), tutorial, a file, a folder "
        "of files or in BEIR layout (its documents), or hub:OWNER/NAME")  # fmt: skip
    add("--column", help="the column with the texts (default: text, or the only one of strings)")
    add("--role", choices=["query", "document"], help="of all texts (default: the column `role`)")
    add("--encoding", help="of files that are not UTF-8, such as cp1252")
    add("--passages", type=_count, metavar="WORDS", help="cut long texts into so many words")
    add("--limit", type=_count, help="use only the first so many texts")
    add("--sample", type=_count, help="draw so many texts, evenly from each file and role")
    add("--vectors", help="in place of a teacher: a .npy file with a row for each text, or a "
        "column of the .parquet file or data set of --texts")  # fmt: skip
    add("--dry-run", action="store_true", help="only print how much is to be done")
    return shared


def _teacher_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument_group("teacher").add_argument
    add("--teacher", help="the large model: a folder, a name on the hub, or PROVIDER:MODEL behind "
        "an API (openai, which most servers speak, cohere, voyage, jina)")  # fmt: skip
    add("--max-length", type=_count, help="tokens read of each text (default: the recipe's)")
    add("--precision", default="auto", choices=["auto", "float32", "bfloat16"],
        help="of the teacher (default: auto)")  # fmt: skip
    add("--cache", help="folder of the target caches (default: cache/ below build/)")
    add("--skip", type=float, default=0.01, metavar="SHARE",
        help="share of the texts that may get no target (default: 0.01)")  # fmt: skip
    add = shared.add_argument_group("a teacher behind an API").add_argument
    add("--url", help="of the server, such as http://localhost:8000/v1")
    add("--key", metavar="NAME", help="environment variable with the key")
    add("--name", help="what the cache calls it; another name begins another cache")
    add("--dimensions", type=_count, help="width to ask for")
    add("--tokenizer", help="model whose tokenizer counts tokens and cuts texts to --max-length")
    add("--price", type=float, help="of a million tokens")
    add("--budget", type=float, help="stop before the total price exceeds this")
    add("--requests-per-minute", type=float, help="at most")
    add("--tokens-per-minute", type=float, help="at most")
    add("--concurrency", type=_count, help="requests at the same time")
    return shared


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return count
