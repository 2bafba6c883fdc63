"""The project's files agree with each other."""

import json
import re
import subprocess
import sys
import tomllib

import jupytext
import nbformat
import pytest
import yaml

from workbench._util import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").rglob("*.ipynb"))


def _pins():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    return dict(
        re.fullmatch(r"([^=]+)==(\S+)", line).groups()
        for line in lines
        if line and not line.startswith("#")
    )


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    named = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pinned = {_normal(name) for name in _pins()} | {
        project["name"]
    }  # an extra may name another of our own
    assert not {_normal(re.match(r"[\w.-]+", line).group()) for line in named} - pinned
    assert _pins()["torch"] == "2.13.0"


def test_conda_gets_the_same_set():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[test]"]}
    python = next(d for d in conda if d.startswith("python="))
    requires = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == ">=" + python.removeprefix("python=")
    assert set(conda) == {python, "pip"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_agree_with_their_sources(notebook):
    """`make notebooks` writes them; they are kept without outputs and with a kernel."""
    saved = nbformat.read(notebook, as_version=4)
    source = jupytext.read(notebook.with_suffix(".py"))
    cells = lambda nb: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]  # noqa: E731
    assert cells(saved) == cells(source)
    assert saved.metadata.kernelspec.name == "python3"
    assert not any(c.get("outputs") or c.get("execution_count") for c in saved.cells)
    nbformat.validate(saved)


def test_there_are_notebooks():
    assert {n.stem[:2] for n in NOTEBOOKS} >= {"01", "02"}
    assert {n.stem for n in NOTEBOOKS} == {
        p.stem for p in (PROJECT / "notebooks").rglob("[!_]*.py")
    }


def test_the_makefile_has_the_commands_of_the_readme():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)", (PROJECT / "README.md").read_text())) <= targets


def test_nothing_large_and_no_pickle_is_kept():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    files = [PROJECT / name for name in listed if name and (PROJECT / name).is_file()]
    assert [f.name for f in files if f.stat().st_size >= 1 << 20] == [
        "head.safetensors"
    ]  # data/ready
    kept = PROJECT / "data" / "ready"  # the student that comes with the package
    pickles_and_weights = (".pkl", ".pt", ".bin", ".safetensors")
    assert not [f for f in files if f.suffix in pickles_and_weights and kept not in f.parents]


def test_the_tree_in_contributing_is_the_package():
    tree = (
        (PROJECT / "CONTRIBUTING.md")
        .read_text()
        .partition("```\nworkbench/\n")[2]
        .partition("```")[0]
    )
    drawn, folder = set(), ""
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if indent == 2:
            folder = name if name.endswith("/") else ""
        drawn.add(name if indent == 2 else folder + name)
    package = PROJECT / "workbench"
    files = [
        path
        for path in package.rglob("*")
        if path.suffix in (".py", ".md") and not path.stem.startswith("__")
    ]
    folders = {"cli/", "extras/", "widgets/", "widgets/static/"}
    assert drawn == {path.relative_to(package).as_posix() for path in files} | folders


def test_modules_import_only_what_stands_below_them():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/guide.md",
        "docs/measured.md",
        "docs/experiments.md",
        "docs/scale.md",
        "docs/teaching.md",
    ],
)
def test_links_between_pages_lead_somewhere(page):
    path = PROJECT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if not file.startswith("https://"):
            found = (path.parent / file) if file else path
            assert found.is_file(), target
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.M) if anchor else []
            assert not anchor or anchor in map(_anchor, headings), target


def test_the_package_is_as_small_as_promised():
    files = [
        path for path in (PROJECT / "workbench").rglob("*") if path.suffix in (".py", ".js", ".css")
    ]
    contents = [path.read_bytes() for path in files]
    assert sum(content.count(b"\n") for content in contents) <= 10_837
    assert sum(map(len, contents)) <= 505_400
    long = [str(p) for p in files if any(len(line) > 100 for line in p.read_text().splitlines())]
    assert not long


def test_the_table_of_the_readme_is_what_was_measured():
    from bench import ladder

    report = json.loads((PROJECT / "docs" / "ladder.json").read_text())
    assert ladder.table(report) in (PROJECT / "README.md").read_text()
    fields = {
        "teacher",
        "collection",
        "rung",
        "mode",
        "share",
        "low",
        "high",
        "seconds",
        "learned_share",
    }
    assert all(fields <= row.keys() for row in report["rows"])
