"""Tables and plots of run.py's rows; see there and exact.py for their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exact import SCALE

from sdsjax.studies.report import markdown_table, plus_minus, saved_figure


def share_of_signal(figures: dict[str, dict], name: str) -> float:
    """The squared bias of an estimator over the squared mean of sds."""
    # as it was divided where it was measured, so that a table made anew is the same
    return np.float32(figures[name]["bias"][0]) / np.float32(figures["sds"]["signal"])


def by_step(points: Sequence[dict], names, cell: Callable) -> list[str]:
    """A table with a column a point; cell: (figures, name) -> text."""
    heads = ["estimator", *(f"step {point['step']}" for point in points)]
    rows = [[name, *(cell(p["figures"], name) for p in points)] for name in names]
    return markdown_table(heads, rows)


def table(plan: Any, points: Sequence[dict], grid: Sequence[dict]) -> str:
    """Markdown: variance by estimator along the run, bias, then psi set by hand."""
    names = list(points[0]["figures"])

    def figure(name: str, error: str) -> Callable:
        return lambda found, n: plus_minus(found[n][name], found[n][error])

    def bias(found, name: str) -> str:
        share = share_of_signal(found, name)
        return f"{plus_minus(*found[name]['bias'])} ({share:.2%})"

    signal = figure("signal", "signal_error")
    squared = ["squared mean of sds", *(signal(p["figures"], "sds") for p in points)]
    learned = ", ".join(
        f"step {p['step']}: lag {p['lag']:.3f}, variance {p['variance']:.3f}"
        for p in points
    )
    last = points[-1]["figures"]
    titles = ("mean lag (rms)", "psi variance", "tr Cov", "over sds", "bias^2", "share")
    by_hand = [
        [
            f"{row['lag']:g}",
            f"{row['variance']:g}",
            plus_minus(row["value"], row["error"]),
            plus_minus(row["ratio"], row["ratio_error"]),
            plus_minus(*row["bias"]),
            f"{share_of_signal(last | {'vsd': row}, 'vsd'):.2%}",
        ]
        for row in grid
    ]
    lines = [
        f"Guidance {SCALE}, w = sigma^2, t uniform, {plan.samples} paired samples, d = "
        f"{3 * plan.size**2}. tr Cov(G) of one sample:",
        "",
        *by_step(points, names, figure("value", "error")),
        "| " + " | ".join(squared) + " |",
        "",
        "tr Cov over that of sds, paired:",
        "",
        *by_step(points, names, figure("ratio", "ratio_error")),
        "",
        "|E G - E sds|^2, paired, and in brackets its share of |E sds|^2:",
        "",
        *by_step(points, names, bias),
        "",
        f"psi of the VSD run, against the z it serves: {learned}.",
        "",
        "VSD at the last z with psi set by hand (variance of psi = 0 is SDS):",
        "",
        *markdown_table(titles, by_hand),
    ]
    return "\n".join(lines) + "\n"


def draw_along(variance, bias, points: Sequence[dict]) -> None:
    """Draws variance and bias along the run, on an axis each."""
    steps = [point["step"] for point in points]
    styles = {"mu = 0": ":", "vsd, converged": "--"}
    for name in points[0]["figures"]:
        if name in ("sds", "mu = 0", "ssd, M = 500"):
            continue  # 1, hundreds, and another gradient
        own = [p["figures"][name] for p in points]
        style = styles.get(name, "-") + "."
        ratio, error = ([row[k] for row in own] for k in ("ratio", "ratio_error"))
        variance.errorbar(steps, ratio, error, fmt=style, label=name)
        if name != "vsd, converged":
            signals = [p["figures"]["sds"]["signal"] for p in points]
            value, error = (
                [row["bias"][k] / signal for row, signal in zip(own, signals)]
                for k in (0, 1)
            )
            bias.errorbar(steps, value, error, fmt=style, label=name, capsize=2)
    variance.set(title="variance along the run, over that of sds", xlabel="step")
    variance.axhline(1, color="k", lw=0.8)
    bias.set(title="bias^2 against sds, share of its signal", xlabel="step")
    bias.axhline(0, color="k", lw=0.8)


def picture(points: Sequence[dict], grid: Sequence[dict], path: Path) -> None:
    """Draws the run, and VSD by psi's lag and variance."""
    lags = list(dict.fromkeys(row["lag"] for row in grid))
    with saved_figure(path, figsize=(15, 4.6)) as figure:
        axes = figure.subplots(1, 3)
        draw_along(axes[0], axes[1], points)
        for lag in lags:
            rows = [row for row in grid if row["lag"] == lag]
            x, y = [r["ratio"] for r in rows], [r["bias"][0] for r in rows]
            axes[2].plot(x, y, "o-", label=f"psi's mean lags by {lag:g}")
        for row in (row for row in grid if row["lag"] == lags[-1]):
            place = row["ratio"], row["bias"][0]
            axes[2].annotate(f"{row['variance']:g}", place, fontsize=8)
        axes[2].set(title="VSD by psi's lag and variance", xscale="log")
        axes[2].set(xlabel="tr Cov over that of sds", ylabel="bias^2 against sds")
        for axis in axes:
            axis.legend(fontsize=7)
