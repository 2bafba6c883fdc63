"""Commands that show a student to others: publish, push."""

from __future__ import annotations

import json
import threading
from argparse import Namespace

from workbench import models
from workbench import student as students
from workbench._util import counted, expanded
from workbench.errors import WorkbenchError
from workbench.extras import publish as publishing
from workbench.extras.card import card


def publish(options: Namespace, stop: threading.Event) -> None:
    """Write a student as a folder that others can load."""
    folder = publishing.check_folder(options.output)
    model = students.load(options.student)
    provenance = students.read_provenance(options.student)
    fingerprint = models.resolve(options.student).fingerprint
    # Rotated or truncated vectors do not share the space of the teacher's vectors.
    moved = bool(provenance.get("rotated")) or publishing.is_truncated(model)
    if options.pair and moved:
        raise WorkbenchError("the student was rotated or truncated: leave out --pair")
    words = card(
        provenance,
        [_report(path, fingerprint) for path in options.results],
        name=options.name or folder.name,
        dimension=model.get_embedding_dimension(),
        max_length=model.max_seq_length,
        pair=options.pair,
        onnx=options.onnx,
        latency=_report(options.latency, fingerprint) if options.latency else None,
        license=options.license,
        language=options.language,
        truncated=moved,
    )
    if options.pair:
        files = models.resolve(options.teacher or provenance["teacher_name"])
        if files.fingerprint != provenance["fingerprint"]:
            raise WorkbenchError(f"the student was not distilled from the weights of {files.name}")
        teacher = models.load(files)
        if length := provenance["teacher"].get("max_length"):
            models.shorten(teacher, length, files.name)
        publishing.save_pair(teacher, model, folder, card=words, onnx=options.onnx)
    else:
        publishing.save_student(model, folder, card=words, onnx=options.onnx)
    print(f"{folder} is complete; its card is README.md")
    print(f"`workbench push {folder} OWNER/NAME --dry-run` lists what the hub would get.")


def _report(path: str, fingerprint: str) -> dict:
    """Read a report on the student with this fingerprint."""
    try:
        report = json.loads(expanded(path).read_text())
        measured = report.get("fingerprint", fingerprint)
    except (OSError, ValueError, AttributeError) as error:
        raise WorkbenchError(f"{path} is no report of workbench evaluate: {error}") from None
    if measured != fingerprint:
        raise WorkbenchError(f"{path} was measured on another student: measure this one")
    return report


def push(options: Namespace, stop: threading.Event) -> None:
    """Send a published folder to the hub."""
    folder, name, dry_run = options.folder, options.name, options.dry_run
    sent = publishing.push(folder, name, private=not options.public, dry_run=dry_run)
    print(sent.to_string(index=False))
    size = f"{counted(len(sent), 'file')}, {sent['bytes'].sum() / 1e6:,.1f} MB"
    print(f"\n{size} {'would be sent to' if dry_run else 'are at'} {name}")
