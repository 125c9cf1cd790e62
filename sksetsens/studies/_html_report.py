"""A stability report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import UnsupportedObjectiveError
from ..moduli import lipschitz_modulus
from ._sample_influence import sample_influence

__all__ = ["html_report"]

Array = NDArray[np.float64]

# Rows and features that are named; all are in the picture.
_NAMED = 10
_MAX_BARS = 400
_HEIGHT = 120

_STYLE = """
:root { color-scheme: light dark; --bar: #2a7ab0; --other: #c8553d; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884;
  font-variant-numeric: tabular-nums; }
td:last-child, th:last-child { text-align: left; }
td.bar { width: 45%; min-width: 8rem; }
td.bar div { height: .8rem; background: var(--bar); min-width: 1px; }
td.bar div.down { background: var(--other); }
svg { width: 100%; height: 120px; } svg rect { fill: var(--bar); }
svg rect.down { fill: var(--other); }
p.note { opacity: .75; font-size: .9rem; }
"""


def html_report(report: Any, X_test: Any, y_test: Any) -> str:
    """The page.

    Parameters
    ----------
    report : StabilityReport
    X_test, y_test : array-like or None
        As in `StabilityReport.to_html`.

    Returns
    -------
    page : str
    """
    sections = [
        ("Each solution", report._repr_html_()),
        ("What cannot be trusted, and why", _untrusted(report)),
        ("Rows: how far each could move the weights", _or_why(_rows, report)),
        ("Features: how far each could move the weights", _or_why(_features, report)),
        (
            "Influence of the training rows",
            _or_why(lambda r: _influence(r, X_test, y_test), report),
        ),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Stability report</title><style>{_STYLE}</style></head><body>"
        f"<h1>Stability report</h1>{body}</body></html>\n"
    )


def _or_why(section: Callable[[Any], str], report: Any) -> str:
    """A section, or the reason why there is none: the others stay."""
    try:
        return section(report)
    except (ValueError, UnsupportedObjectiveError) as error:
        return f"<p>Not available: {html.escape(str(error))}</p>"


def _untrusted(report: Any) -> str:
    about: dict[str, list[str]] = {}
    told = zip(report.status, report.predicted.trustworthy, strict=True)
    for i, (sentence, trusted) in enumerate(told):
        if not trusted:
            about.setdefault(str(sentence), []).append(str(i))
    if not about:
        return "<p>All predictions may be trusted to first order.</p>"
    items = "".join(
        f"<li>Solutions {', '.join(who)}: {html.escape(sentence)}</li>"
        for sentence, who in about.items()
    )
    return f"<ul>{items}</ul>"


def _rows(report: Any) -> str:
    moduli = lipschitz_modulus(report.estimator, level="sample")
    return _moduli(np.asarray(moduli), [f"row {i}" for i in range(moduli.shape[1])])


def _features(report: Any) -> str:
    moduli = np.asarray(lipschitz_modulus(report.estimator, level="feature"))
    names = getattr(report.estimator, "feature_names_in_", None)
    if names is None or len(names) != moduli.shape[1]:
        names = [f"feature {i}" for i in range(moduli.shape[1])]
    return _moduli(moduli, [str(name) for name in names])


def _moduli(moduli: Array, names: Sequence[str]) -> str:
    """The largest over the solutions."""
    note = (
        "Lipschitz moduli: movement of the weights per unit of change of that part of "
        "X, at worst, the largest over the solutions; inf where none is certified."
    )
    return _ranked(moduli.max(axis=0), names, "modulus", note)


def _influence(report: Any, X_test: Any, y_test: Any) -> str:
    found = sample_influence(report.estimator, X_test, y_test)
    values = found.values.reshape(-1, found.values.shape[-1]).mean(axis=0)
    where = "its own loss" if X_test is None else "the mean loss on the test rows"
    told = int(found.trustworthy.all(axis=0).sum())
    note = (
        f"Change of {where} when the row is left out, the mean over the solutions: "
        "above 0 the row helped. "
        f"{told} of {len(values)} rows may be trusted at every solution."
    )
    names = [f"row {i}" for i in range(len(values))]
    return _ranked(values, names, "change", note)


def _ranked(values: Array, names: Sequence[str], title: str, note: str) -> str:
    """All values in a picture, in order, and the largest by name."""
    sizes = np.where(np.isnan(values), -1.0, np.abs(values))
    order = np.argsort(-sizes, kind="stable")
    finite = sizes[np.isfinite(sizes)]
    largest = max(float(finite.max(initial=0.0)), np.finfo(float).tiny)
    lines = []
    for i in order[:_NAMED]:
        share = min(max(sizes[i], 0.0) / largest, 1.0)
        kind = ' class="down"' if values[i] < 0 else ""
        lines.append(
            f"<tr><td>{html.escape(names[i])}</td><td>{values[i]:.3g}</td>"
            f'<td class="bar"><div{kind} style="width: {100 * share:.1f}%"></div></td>'
            "</tr>"
        )
    return (
        _picture(values[order], sizes[order] / largest, title)
        + f"<table><thead><tr><th></th><th>{title}</th><th></th></tr></thead>"
        + f"<tbody>{''.join(lines)}</tbody></table>"
        + f'<p class="note">{html.escape(note)}</p>'
    )


def _picture(values: Array, shares: Array, title: str) -> str:
    """Bars from the largest to the smallest; of many a part, evenly."""
    shown = np.unique(np.linspace(0, len(values) - 1, _MAX_BARS).round().astype(int))
    bars = []
    for x, i in enumerate(shown):
        height = _HEIGHT * float(np.clip(np.nan_to_num(shares[i], nan=0.0), 0.0, 1.0))
        kind = ' class="down"' if values[i] < 0 else ""
        bars.append(
            f'<rect{kind} x="{x}" y="{_HEIGHT - height:.2f}" width="0.9" '
            f'height="{height:.2f}"/>'
        )
    return (
        f'<svg viewBox="0 0 {max(len(shown), 10)} {_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{title} of all parts, '
        f'sorted">{"".join(bars)}</svg>'
    )
