"""Texts, errors and tables as HTML: cut to a length, and escaped."""

from __future__ import annotations

import html

import pandas as pd


def cut(text: object, most: int = 300) -> str:
    """Cut a long text; what goes where markup is not read needs nothing else."""
    text = str(text)
    return text if len(text) <= most else text[:most] + " …"


def shown(text: object, most: int = 300) -> str:
    """Return text for HTML: cut to `most` characters and escaped, so that markup is shown and not run."""
    return html.escape(cut(text, most))


def hover(text: object, most: int = 120) -> str:
    """Return text for plotly's labels, which read a little markup: cut, escaped and in one line."""
    return html.escape(cut(text, most), quote=False).replace("\n", " ")


def error_line(error: BaseException | str, before: str = "") -> str:
    """Return an error as a line of HTML."""
    return f'<span class="error">{before}{shown(error, 1000)}</span>'


def cell(value: object) -> str:
    """Return a value as a table shows it: numbers to three decimals, nothing for a missing one, long texts cut."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if pd.api.types.is_float(value):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if pd.api.types.is_integer(value) else cut(value, 200)


def html_table(frame: pd.DataFrame, caption: str = "", style: str = "") -> str:
    """Return the columns of a dataframe as a table of HTML; whatever is in them is escaped."""
    head = "".join(f'<th dir="auto">{shown(name, 120)}</th>' for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(f'<td dir="auto">{shown(cell(v))}</td>' for v in row) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    caption = (
        f'<caption style="text-align:left"><b>{shown(caption)}</b></caption>' if caption else ""
    )
    return f'<table style="{style}">{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
