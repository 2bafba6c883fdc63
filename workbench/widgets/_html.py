"""Texts, errors and tables as HTML: cut to a length, and escaped."""

import html
import os

import pandas as pd


def cut(text: object, most: int = 300) -> str:
    text = str(text)
    return text if len(text) <= most else text[:most] + " …"


def shown(text: object, most: int = 300) -> str:
    """Return text for HTML: cut to `most` characters and escaped."""
    return html.escape(cut(text, most))


def from_here(file: str | None) -> str:
    """Return the path of a file from the notebook's folder, "" if it is not below it."""
    path = os.path.relpath(file) if file else ""
    return "" if path.startswith("..") else path


def link(name: str, file: str | None) -> str:
    """Return a name as HTML, which JupyterLab links to its file: see `static/common.js`."""
    path = from_here(file)
    return f'<code data-file="{shown(path, 1000)}">{shown(name, 200)}</code>' if name else ""


def hover(text: object, most: int = 120) -> str:
    """Return text for plotly's labels, which read some markup: cut, escaped and in one line."""
    return html.escape(cut(text, most), quote=False).replace("\n", " ")


def error_line(error: BaseException, before: str = "") -> str:
    """Return an error as a line of HTML."""
    return f'<span class="error">{before}{shown(error, 1000)}</span>'


def cell(value: object) -> str:
    """Return a value as a table shows it: three decimals, nothing where it is missing."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if pd.api.types.is_float(value):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if pd.api.types.is_integer(value) else cut(value, 200)


def html_table(frame: pd.DataFrame) -> str:
    """Return the columns of a dataframe as an HTML table, with escaped values."""
    lines = []
    rows = frame.itertuples(index=False, name=None)
    for tag, values in [("th", frame.columns), *(("td", row) for row in rows)]:
        cells = [f'<{tag} dir="auto">{shown(cell(value))}</{tag}>' for value in values]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"
