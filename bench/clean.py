"""Load each published form in a new environment that has only the library which the form needs.

    python -m bench.clean FOLDER...

FOLDER is what `workbench publish` wrote. The code of its card is run unchanged: the part for sentence-transformers in
one environment, the part for onnxruntime in another, with the versions pinned in constraints.txt. Prints versions and
exit codes. Takes minutes, and gigabytes of disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from huggingface_hub import ModelCard

from workbench import models
from workbench._util import PROJECT

LIBRARIES = {
    "sentence_transformers": ["sentence-transformers"],
    "onnxruntime": ["onnxruntime", "tokenizers", "numpy"],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.clean", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    failed = 0
    for library, packages in LIBRARIES.items():
        with tempfile.TemporaryDirectory() as scratch:
            python = environment(Path(scratch), packages)
            for folder in options.folders:
                if code := card_code(folder.resolve(), library):
                    done = subprocess.run(
                        [python, "-c", code], cwd=folder, capture_output=True, text=True
                    )
                    failed += done.returncode != 0
                    words = (
                        done.stdout.strip() if not done.returncode else done.stderr.strip()[-500:]
                    )
                    print(
                        f"{folder} with {library} alone: exit code {done.returncode}\n{words}\n",
                        flush=True,
                    )
    return 1 if failed else 0


def environment(folder: Path, packages: list[str]) -> Path:
    """Make an environment of these packages and their dependencies."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "-c",
        PROJECT / "constraints.txt",
    ]
    if "sentence-transformers" in packages:
        subprocess.run([*pip, "torch==2.13.0"], check=True)  # the build that set-up takes
    subprocess.run([*pip, *packages], check=True)
    return python


def card_code(folder: Path, library: str) -> str:
    """Return the card's code for a library, changed to load the local folder and to print the versions."""
    card = ModelCard.load(folder / "README.md")
    parts = [part.split("```")[0] for part in card.text.split("```python\n")[1:]]
    mine = [part for part in parts if ("onnxruntime" in part) == (library == "onnxruntime")]
    code = "\n".join(mine).replace(card_name(parts), str(folder))
    for name in (models.MPNET, models.MINILM):  # the packaged models are on this machine already
        code = (
            code.replace(f'"{name}"', f'"{models.resolve(name).path}"')
            if f'"{name}"' in code
            else code
        )
    names = {
        "sentence_transformers": ("sentence_transformers", "torch"),
        "onnxruntime": ("onnxruntime", "tokenizers"),
    }
    told = f"\nfrom importlib.metadata import version\nprint({{n: version(n) for n in {names[library]}}})"
    absent = "\nimport importlib.util\nassert not importlib.util.find_spec('workbench')"
    shown = "\nprint('vectors', vectors.shape)" if library == "onnxruntime" else ""
    return code + shown + told + absent if code.strip() else ""


def card_name(parts: list[str]) -> str:
    """Return the name that the card's code loads."""
    return parts[0].split('SentenceTransformer("')[1].split('"')[0]


if __name__ == "__main__":
    sys.exit(main())
