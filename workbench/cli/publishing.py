"""Commands that show a student to others: publish, push, lab."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from workbench._util import PROJECT
from workbench.errors import WorkbenchError


def publish(
    *,
    student: str,
    output: str,
    results: list[str],
    name: str | None,
    pair: bool,
    teacher: str | None,
    onnx: bool,
    latency: str | None,
    license: str,
) -> None:
    """Write a student as a folder that others can load."""
    from workbench import models
    from workbench import student as students
    from workbench.extras import publish as publishing
    from workbench.extras.card import card

    folder = publishing.check_folder(output)
    if folder.is_relative_to(Path(student).expanduser().resolve()):
        raise WorkbenchError(f"--output {output} lies in the student's own folder, which the next distill replaces")
    model, made = students.load(student), students.read_provenance(student)
    fingerprint = models.resolve(student).fingerprint
    reports = [_report(path, fingerprint) for path in results]
    # Rotated or truncated vectors do not share the space of the teacher's own ones.
    moved = bool(made.get("rotated")) or publishing.is_truncated(model)
    if pair and moved:
        raise WorkbenchError(
            f"{student} was rotated or truncated: truncate the teacher alike and call publish.save_pair in Python"
        )
    words = card(
        made,
        reports,
        name=name or folder.name,
        dimension=model.get_embedding_dimension(),
        max_length=model.max_seq_length,
        pair=pair,
        onnx=onnx,
        latency=_report(latency, fingerprint) if latency else None,
        license=license,
        truncated=moved,
    )
    if pair:
        large = models.resolve(teacher or made["teacher_name"])
        if made.get("fingerprint") not in (None, large.fingerprint):
            raise WorkbenchError(f"{student} was distilled from {made['teacher_name']}, not from {large.name}")
        large = models.load(large)
        large.max_seq_length = made["teacher"]["max_length"]
        folder = publishing.save_pair(large, model, output, card=words, onnx=onnx)
    else:
        folder = publishing.save_student(model, output, card=words, onnx=onnx)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{len(sizes)} files, {sum(sizes) / 1e6:,.0f} MB in {folder}; its card is README.md")
    print(f"`workbench push {folder} OWNER/NAME --dry-run` lists what the hub would get.")


def _report(path: str, fingerprint: str) -> dict:
    """Read what was measured of the student that has this fingerprint."""
    import json

    try:
        report = json.loads(Path(path).expanduser().read_text())
        if not isinstance(report, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{path} cannot be read as a report ({error}): give one of workbench evaluate") from None
    if report.get("fingerprint", fingerprint) != fingerprint:
        raise WorkbenchError(f"{path} was measured on another student: measure this one")
    return report


def push(*, folder: str, name: str, dry_run: bool, public: bool) -> None:
    """Send a published folder to the hub."""
    from workbench.extras import publish as publishing

    sent = publishing.push(folder, name, private=not public, dry_run=dry_run)
    print(sent.to_string(index=False))
    done = "would be sent to" if dry_run else "are at"
    print(f"\n{len(sent)} files, {sent['bytes'].sum() / 1e6:,.1f} MB {done} {name}")


def lab(*, port: int, no_browser: bool, jupyter_options: list[str]) -> None:
    """Open the notebooks in JupyterLab."""
    notebooks = PROJECT / "notebooks"
    if not notebooks.is_dir():
        raise WorkbenchError(f"no notebooks at {notebooks}: run this from a checkout of the project")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command.append(f"--ServerApp.root_dir={PROJECT}")
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; the server still listens on this machine only
        command.append("--allow-root")
    shared = [str(notebooks), str(PROJECT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.execve(
        sys.executable,
        [*command, *jupyter_options, "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"],
        os.environ | {"PYTHONPATH": os.pathsep.join(shared)},
    )
