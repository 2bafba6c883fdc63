"""The `workbench` command."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from workbench import __version__
from workbench.cli import commands
from workbench.errors import WorkbenchError

SAMPLE_HELP = "draw so many texts from a folder of files, evenly from each file and role"
TEXTS_HELP = (
    "texts to learn from: 'docstrings' (of the installed libraries), 'tutorial', a folder in BEIR layout (its "
    "documents; queries and judgments stay unseen), a .parquet or .jsonl file with the columns text and role, a "
    "folder of such files, or hub:NAME:COLUMN:ROLE for a data set of the hub"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (0 done, 1 failed, 2 wrong usage, 130 stopped)."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        if stop.is_set() or options.at_once:
            stop.set()
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping at the next safe point; press Ctrl-C again to stop at once.", file=sys.stderr)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask_to_stop)
    try:
        options.run(options, stop)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        kept = "" if options.at_once else "; what was stored is kept, and the same command goes on from there"
        print(f"stopped{kept}", file=sys.stderr)
        return 130
    return 130 if stop.is_set() else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench", description="Teach a small text-embedding model the vector space of a large one."
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str, details: str, at_once: bool = False) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=summary, description=f"{summary}. {details}", formatter_class=_Help)
        sub.set_defaults(run=run, at_once=at_once)  # whether Ctrl-C ends it at once, for it leaves nothing by halves
        return sub

    def teacher_options(sub: argparse.ArgumentParser, teacher: str | None, length: int | None) -> None:
        sub.add_argument(
            "--teacher", default=teacher,
            help="the large model: a folder, a packaged model, a name on the hub, or PROVIDER:MODEL behind an API "
                 "(openai, which most servers speak, cohere, voyage, jina)",
        )  # fmt: skip
        sub.add_argument("--max-length", type=_positive, default=length, help="tokens read of each text")
        sub.add_argument(
            "--precision", default="auto", choices=["auto", "float32", "bfloat16"], help="the teacher's arithmetic"
        )
        sub.add_argument("--cache", help="folder of the target caches (default: cache/ in the workbench's folder)")
        api = sub.add_argument_group("a teacher behind an API")
        api.add_argument("--url", help="of the server, such as http://localhost:8000/v1, if not the provider's own")
        api.add_argument(
            "--key", metavar="NAME", help="the environment's variable with the key (default: the provider's)"
        )
        api.add_argument(
            "--name", help="what the cache calls it (default: model and server); another one begins another cache"
        )
        api.add_argument(
            "--dimensions", type=_positive, help="width to ask for (default: found out by a first request)"
        )
        api.add_argument("--tokenizer", help="model whose tokenizer counts tokens and cuts texts to --max-length")
        api.add_argument("--price", type=float, help="of a million tokens")
        api.add_argument("--budget", type=float, help="stop before the price of all is higher")
        api.add_argument("--requests-per-minute", type=float, help="at most")
        api.add_argument("--tokens-per-minute", type=float, help="at most")
        api.add_argument("--concurrency", type=_positive, help="requests at the same time")

    def vectors_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--vectors",
            help="vectors that exist already, instead of a teacher: a .npy file with a row for each of --texts, or the "
                 "column that has them in the .parquet file or data set of --texts",
        )  # fmt: skip

    demo = command("demo", commands.run_demo, "Run the main job once on docstrings and print the comparison",
                   "Minutes on two cores; a second run uses what the first one finished.")  # fmt: skip
    demo.add_argument("--fresh", action="store_true", help="train anew instead of using an earlier run")

    cache = command("cache", commands.run_cache, "Encode texts with the teacher and store the vectors",
                    "Can be stopped and repeated at any time: what is stored is never encoded again. The teacher is "
                    "all-mpnet-base-v2 if you name none.")  # fmt: skip
    cache.add_argument("--texts", default="docstrings", help=TEXTS_HELP)
    cache.add_argument("--limit", type=_positive, help="use the first so many texts")
    cache.add_argument("--sample", type=_positive, help=SAMPLE_HELP)
    vectors_option(cache)
    cache.add_argument("--dry-run", action="store_true", help="only say how many texts are missing")
    cache.add_argument(
        "--workers", type=_positive,
        help="so many teachers at once, on the Ray cluster of RAY_ADDRESS or on this machine (extra `ray`)",
    )  # fmt: skip
    cache.add_argument("--gpus-per-worker", type=float, default=0, help="GPUs of each of these teachers")
    teacher_options(cache, None, 128)

    distill = command("distill", commands.run_distill, "Train a student on a teacher's vectors",
                      "Targets are cached first; stopped with Ctrl-C, the same command goes on where it was.")  # fmt: skip
    distill.add_argument("--texts", default="docstrings", help=TEXTS_HELP)
    distill.add_argument("--limit", type=_positive, help="use the first so many texts")
    distill.add_argument("--sample", type=_positive, help=SAMPLE_HELP)
    vectors_option(distill)
    distill.add_argument(
        "--dry-run", action="store_true", help="only say what it would take, from a minute's timing on this machine"
    )
    distill.add_argument(
        "--speeds", metavar="DEVICE:TEACHER:STUDENT", help="with --dry-run: texts a second of another device instead"
    )
    distill.add_argument(
        "--recipe",
        default="tour",
        help="tour, in-domain, redact-ir, redact-mt, redact-ir-fast or redact-mt-fast: what is not named below is the recipe's",
    )
    distill.add_argument("--base", help="the small model that the student starts from")
    distill.add_argument("--output", required=True, help="folder for the student")
    distill.add_argument("--start", choices=["closed-form", "random"], help="how the head starts")
    distill.add_argument("--epochs", type=_positive, help="passes over the texts in a cycle")
    distill.add_argument("--restarts", type=_positive, help="how often the learning rate starts again")
    distill.add_argument("--batch-size", type=_positive, help="texts a step, over all processes")
    distill.add_argument("--learning-rate", type=float, help="at the start of each cycle")
    distill.add_argument("--seed", type=int, help="of batches and of a random head")
    distill.add_argument("--fresh", action="store_true", help="start anew instead of from a checkpoint")
    teacher_options(distill, None, None)

    evaluate = command("evaluate", commands.run_evaluate, "Compare a student with its teacher on a retrieval collection",
                       "Prints teacher, untrained base, student, and student on the teacher's documents.")  # fmt: skip
    evaluate.add_argument("--student", required=True, help="folder of the student")
    evaluate.add_argument("--collection", default="tutorial", help="'tutorial' or a folder in BEIR layout")
    evaluate.add_argument("--split", default="test", help="which judgments to use")
    evaluate.add_argument("--base", help="the untrained model to compare with (default: what the student started from)")
    evaluate.add_argument(
        "--curves", action="store_true", help="measure truncated and quantized vectors too, as real indexes"
    )
    evaluate.add_argument(
        "--json", help="where to write the table (default: evaluate-NAME.json in the workbench's folder)"
    )
    teacher_options(evaluate, None, None)

    bench = command("benchmark", commands.run_benchmark, "Run teacher, base, student and pair on tasks of mteb",
                    "Tasks by name need the hub; folders on this machine do not. Finished evaluations are kept, and the "
                    "same command goes on from there.")  # fmt: skip
    bench.add_argument("--student", required=True, help="folder of the student")
    bench.add_argument(
        "--tasks", nargs="+", required=True, metavar="TASK",
        help="tasks or benchmarks by mteb's names (SciFact, BEIR, 'MTEB(eng, v2)'), or folders in the layouts of docs/guide.md",
    )  # fmt: skip
    bench.add_argument("--split", default="test", help="of the folders")
    bench.add_argument(
        "--model", action="append", default=[], help="another sentence-transformers model to compare with"
    )
    bench.add_argument("--base", help="the untrained model (default: what the student started from)")
    bench.add_argument("--results", help="folder for mteb's results (default: benchmarks/ in the workbench's folder)")
    bench.add_argument("--json", help="where to write the tables (default: benchmark.json in the workbench's folder)")
    teacher_options(bench, None, None)

    fetch = command("fetch", commands.run_fetch, "Fetch the paper's mixture of texts from the hub",
                    "Parquet files of 100,000 texts; stopped or cut off, the same command goes on behind the last whole one.")  # fmt: skip
    fetch.add_argument("--output", required=True, help="folder for the texts")
    fetch.add_argument("--dry-run", action="store_true", help="only list the sources")

    publish = command("publish", commands.run_publish, "Write a student as a folder that others can load",
                      "The model, its card and, if asked for, the teacher and ONNX; nothing leaves this machine.", at_once=True)  # fmt: skip
    publish.add_argument("--student", required=True, help="folder of the student, as distill wrote it")
    publish.add_argument("--output", required=True, help="new or empty folder")
    publish.add_argument(
        "--results", nargs="+", default=[], metavar="JSON", help="reports of `workbench evaluate`; the card states them"
    )
    publish.add_argument("--name", help="what the card calls it, such as me/my-student (default: the folder's name)")
    publish.add_argument(
        "--pair", action="store_true", help="the teacher for documents and the student for queries, as one model"
    )
    publish.add_argument("--teacher", help="where the teacher is (default: where distill had it)")
    publish.add_argument("--onnx", action="store_true", help="the whole student as ONNX too, in float32 and int8")
    publish.add_argument("--latency", metavar="JSON", help="report of `python -m bench.latency`; the card states it")
    publish.add_argument("--license", default="apache-2.0", help="as the hub abbreviates it")

    push = command("push", commands.run_push, "Send a published folder to the hub",
                   "With the token of HF_TOKEN or of `hf auth login`; a new model is private unless you say --public.", at_once=True)  # fmt: skip
    push.add_argument("folder", help="what `workbench publish` wrote")
    push.add_argument("name", help="owner/name on the hub")
    push.add_argument("--dry-run", action="store_true", help="only list what would be sent")
    push.add_argument("--public", action="store_true", help="make a new model public")

    lab = command(
        "lab", commands.run_lab, "Open the notebooks in JupyterLab", "Listens on this machine only, with a token."
    )
    lab.add_argument("--port", type=_positive, default=8888, help="port to listen on")
    lab.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    lab.add_argument("jupyter_options", nargs="*", help="passed on to JupyterLab, after --")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
