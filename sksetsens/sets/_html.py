"""Solutions as an HTML table, a line each: what notebooks show."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["html_table"]


def html_table(
    summary: str,
    columns: Sequence[str],
    cells: Iterable[Sequence[str]],
    status: NDArray[np.str_],
    trusted: NDArray[np.bool_],
) -> str:
    """What is said of all, and a line for each solution with its sentence.

    A sentence is bold where the numbers beside it must not be trusted.

    Parameters
    ----------
    summary : str
    columns : sequence of str
        Heads of the columns but the last one, which is the status.
    cells : iterable of sequences of str
        Of each solution.
    status : ndarray of str of shape (n_solutions,)
    trusted : ndarray of bool of shape (n_solutions,)

    Returns
    -------
    table : str
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*columns, "status"))
    lines = zip(cells, status, trusted, strict=True)
    body = "".join(_line(of_one, str(told), bool(ok)) for of_one, told, ok in lines)
    return (
        f"<p>{html.escape(summary)}</p>"
        '<table cellpadding="4" style="text-align: left">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _line(cells: Sequence[str], status: str, trusted: bool) -> str:
    numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    sentence = html.escape(status)
    if not trusted:
        sentence = f"<strong>{sentence}</strong>"
    return f'<tr>{numbers}<td style="text-align: left">{sentence}</td></tr>'
