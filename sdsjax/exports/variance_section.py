"""The report's section on the variance of a run's gradient, if it was measured.

Rows of a history hold `variance/<name>` and `variance/<name>_error` at the steps where
`config.diagnostics.variance_every` was due (see sdsjax.training.gradient_variance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sdsjax.diagnostics.plots import number, plots_html

PREFIX = "variance/"
ERROR = "_error"
# name: (what a person reads, the title of its plot or "")
MEASURED = {
    "theta": ("Variance of a step's gradient, in &theta;", "variance in theta"),
    "snr_theta": ("Signal to noise, in &theta;", "signal to noise in theta"),
    "signal_theta": ("Squared mean gradient, in &theta;", ""),
    "z": ("Variance of a view's direction, in z", "variance in z"),
    "snr_z": ("Signal to noise, in z", "signal to noise in z"),
    "signal_z": ("Squared mean direction, in z", ""),
    "c_star": ("c*, the best share of the noise to subtract", "c*"),
    "r_mean": ("r of SSD, mean", "r, mean"),
    "r_min": ("r of SSD, lowest", ""),
    "r_max": ("r of SSD, highest", ""),
    "left_none": ("Variance left by e<sub>y</sub>", ""),
    "left_sds": ("Variance left by e<sub>y</sub> - &epsilon;", ""),
    "left_adaptive": ("Variance left by e<sub>y</sub> - r &epsilon;", ""),
    "left_optimal": ("Variance left by e<sub>y</sub> - c* &epsilon;", ""),
}


def split_history(history: Sequence[Mapping]) -> tuple[list[dict], list[dict]]:
    """Splits rows into those without the measured variance and it alone."""
    rest = [
        {k: v for k, v in row.items() if not k.startswith(PREFIX)} for row in history
    ]
    measured = [
        {k: v for k, v in row.items() if k == "step" or k.startswith(PREFIX)}
        for row in history
        if any(k.startswith(PREFIX) for k in row)
    ]
    return rest, measured


def _cell(row: Mapping, name: str) -> str:
    value, error = row.get(PREFIX + name), row.get(PREFIX + name + ERROR)
    if value is None:
        return "-"
    return number(value) + ("" if error is None else f" &plusmn; {number(error)}")


def variance_html(history: Sequence[Mapping]) -> str:
    """A table of the first and the last measurement, then the curves; "" if none."""
    _, rows = split_history(history)
    if not rows:
        return ""
    ends = rows[:1] if len(rows) == 1 else [rows[0], rows[-1]]
    head = "".join(
        f"<th class=number>step {escape(str(row.get('step', '-')))}</th>"
        for row in ends
    )
    body = "".join(
        f"<tr><th>{label}</th>"
        + "".join(f"<td class=number>{_cell(row, name)}</td>" for row in ends)
        + "</tr>"
        for name, (label, _) in MEASURED.items()
        if any(PREFIX + name in row for row in ends)
    )
    titles = {PREFIX + name: title for name, (_, title) in MEASURED.items() if title}
    curves = [
        {"step": row.get("step", i)}
        | {t: row[k] for k, t in titles.items() if k in row}
        for i, row in enumerate(rows)
    ]
    return (
        "<p>Over timestep and noise at the views of the step named; &plusmn; is one "
        "standard error (jackknife).</p>"
        '<div class="card" style="margin-bottom:14px">'
        f"<table><thead><tr><th>Measured</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{plots_html(curves)}"
    )
