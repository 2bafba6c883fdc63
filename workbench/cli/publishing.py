"""Commands that show a student to others: publish, push."""

from __future__ import annotations

import json
from argparse import Namespace

from workbench import models
from workbench import student as students
from workbench._util import counted, expanded
from workbench.errors import WorkbenchError
from workbench.extras import publish as publishing
from workbench.extras.card import card


def publish(options: Namespace) -> None:
    """Write a student as a folder that others can load."""
    student, output, pair = options.student, options.output, options.pair
    folder = publishing.check_folder(output)
    if folder.is_relative_to(expanded(student).resolve()):
        raise WorkbenchError(
            f"--output {output} lies in the student's own folder, which the next distill replaces"
        )
    model, made = students.load(student), students.read_provenance(student)
    fingerprint = models.resolve(student).fingerprint
    # Rotated or truncated vectors do not share the space of the teacher's own ones.
    moved = bool(made.get("rotated")) or publishing.is_truncated(model)
    if pair and "fingerprint" not in made.get("teacher", {}):
        raise WorkbenchError(
            f"{student} was distilled from {made.get('teacher_name')}, of which there are vectors and no weights: leave out --pair"
        )
    if pair and moved:
        raise WorkbenchError(
            f"{student} was rotated or truncated: truncate the teacher alike and call publish.save_pair in Python"
        )
    words = card(
        made,
        [_report(path, fingerprint) for path in options.results],
        name=options.name or folder.name,
        dimension=model.get_embedding_dimension(),
        max_length=model.max_seq_length,
        pair=pair,
        onnx=options.onnx,
        latency=_report(options.latency, fingerprint) if options.latency else None,
        license=options.license,
        language=options.language,
        truncated=moved,
    )
    if pair:
        large = models.resolve(options.teacher or made["teacher_name"])
        if made.get("fingerprint") not in (None, large.fingerprint):
            raise WorkbenchError(
                f"{student} was distilled from {made['teacher_name']}, not from {large.name}"
            )
        large = models.load(large)
        if length := made["teacher"].get("max_length"):
            models.shorten(large, length, str(made["teacher_name"]))
        folder = publishing.save_pair(large, model, output, card=words, onnx=options.onnx)
    else:
        folder = publishing.save_student(model, output, card=words, onnx=options.onnx)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(
        f"{counted(len(sizes), 'file')}, {sum(sizes) / 1e6:,.0f} MB in {folder}; its card is README.md"
    )
    print(f"`workbench push {folder} OWNER/NAME --dry-run` lists what the hub would get.")


def _report(path: str, fingerprint: str) -> dict:
    """Read what was measured of the student that has this fingerprint."""
    try:
        report = json.loads(expanded(path).read_text())
        if not isinstance(report, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"{path} cannot be read as a report ({error}): give one of workbench evaluate"
        ) from None
    if report.get("fingerprint", fingerprint) != fingerprint:
        raise WorkbenchError(f"{path} was measured on another student: measure this one")
    return report


def push(options: Namespace) -> None:
    """Send a published folder to the hub."""
    sent = publishing.push(
        options.folder, options.name, private=not options.public, dry_run=options.dry_run
    )
    print(sent.to_string(index=False))
    done = "would be sent to" if options.dry_run else "are at"
    print(
        f"\n{counted(len(sent), 'file')}, {sent['bytes'].sum() / 1e6:,.1f} MB {done} {options.name}"
    )
