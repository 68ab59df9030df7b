"""Tables and plots of toybox.py's rows; see there for their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdsjax.studies.report import markdown_table, plus_minus, saved_figure

TITLES = {
    "variance": "tr Cov of one sample",
    "ratio": "tr Cov over that of sds, paired",
    "snr": "squared mean over tr Cov",
    "bias": "|E G - E sds|^2, paired, in brackets over |E sds|^2",
    "cosine": "cosine of the mean with that of sds",
}
NOISE = "sds, its noise alone"  # no estimator: what of sds any phi could take away


def against_signal(figures: dict, name: str) -> str:
    """A squared bias, and in brackets its share of the squared mean of sds."""
    share = figures[name]["bias"][0] / figures["sds"]["signal"][0]
    return f"{plus_minus(*figures[name]['bias'])} ({share:.2g})"


def by_step(points: list[dict], names, title: str, cell: Callable) -> list[str]:
    """A table with a column a point; cell: (point, name) -> text."""
    heads = ["estimator", *(f"step {point['step']}" for point in points)]
    rows = [[name, *(cell(point, name) for point in points)] for name in names]
    return [f"{title}:", "", *markdown_table(heads, rows), ""]


def of_prompt(row: dict) -> list[str]:
    """The tables of one prompt's row."""
    points = row["points"]
    every = list(points[0]["z"])
    names = [name for name in every if name != NOISE]
    lines = [f"# {row['prompt']}", ""]
    for space in ("z", "theta"):
        for figure, title in TITLES.items():
            if space == "theta" and figure == "cosine":
                continue

            def cell(point, name, space=space, figure=figure):
                if figure == "bias":
                    return against_signal(point[space], name)
                return plus_minus(*point[space][name][figure])

            shown = every if figure in ("variance", "ratio") else names
            lines += by_step(points, shown, f"{title} ({space})", cell)
        lines += by_step(
            points, ["sds"], f"squared mean ({space})",
            lambda point, name, space=space: plus_minus(*point[space][name]["signal"]),
        )  # fmt: skip
    for key, title in (("mu", "mu learnt, one number"), ("best", "its optimum, mean")):
        lines += by_step(
            points,
            points[0][key],
            title,
            lambda point, n, key=key: f"{point[key][n]:.3f}",
        )
    lines += ["VSD at the last step, psi trained on with theta at rest:", ""]
    last = points[-1]["z"]
    after = {"0": last["vsd"], **row["onward"]}
    lines += markdown_table(
        ["further steps", "over sds", "bias, over \\|E sds\\|^2"],
        [
            [
                str(steps),
                plus_minus(*found["ratio"]),
                against_signal(last | {"vsd": found}, "vsd"),
            ]
            for steps, found in after.items()
        ],
    )
    lines += ["", "CPU time of a step's estimates and learning, over that of sds:", ""]
    ratios = [f"{cost:.2f}" for cost in row["costs"].values()]
    lines += markdown_table(list(row["costs"]), [ratios])
    seconds = ", ".join(f"{n} {s:.3f}" for n, s in row["seconds"].items())
    return [*lines, "", f"CPU seconds of a whole step of the runs: {seconds}.", ""]


def table(plan, rows: list[dict]) -> str:
    """The Markdown of all rows."""
    head = (
        f"Guidance 7.5, w = sigma^2, t uniform, {plan.samples} paired samples of (t, "
        f"eps) at one view; runs of {plan.steps} steps of {plan.batch} views. +-: "
        "jackknife over 16 groups."
    )
    return "\n".join([head, "", *(line for row in rows for line in of_prompt(row))])


STYLES = {
    "constant, learnt number": "C0:",
    "constant, optimum": "C0-",
    "constant, optimum by t": "C0--",
    "depth, mu = 1": "C1:",
    "depth, learnt element": "C1--",
    "depth, optimum": "C1-",
    "normal, learnt element": "C2--",
    "normal, optimum": "C2-",
    "all three, optimum": "k-",
    "vsd": "C3-",
    NOISE: "C7-.",
}


def draw(axis, points, name, space, of, style, label=None) -> None:
    """Draws a figure of an estimator along the run. of: (figures, name) -> a pair."""
    value, error = zip(*[of(point[space], name) for point in points])
    axis.errorbar(
        [point["step"] for point in points], value, error, capsize=2, ms=3,
        fmt=f"{style[:2]}o{style[2:]}", label=label or name,
    )  # fmt: skip


def bias_share(figures: dict, name: str) -> tuple[float, ...]:
    """The squared bias over the squared mean of sds, and its error."""
    scale = figures["sds"]["signal"][0]
    return tuple(v / scale for v in figures[name]["bias"])


def draw_prompt(axes, row: dict) -> None:
    """Draws variance over sds's in z and theta, bias, signal to noise of a prompt."""
    points = row["points"]
    for axis, space in zip(axes, ("z", "theta")):
        for name, style in STYLES.items():
            draw(axis, points, name, space, lambda f, n: f[n]["ratio"], style)
        axis.set(title=f"tr Cov over that of sds, in {space}")
        axis.axhline(1, color="k", lw=0.8)
    for space, style in (("z", "C3-"), ("theta", "C3--")):
        draw(axes[2], points, "vsd", space, bias_share, style, f"vsd, in {space}")
        draw(
            axes[2], points, "depth, optimum", space, bias_share, "C1" + style[2:],
            f"depth, optimum, in {space}",
        )  # fmt: skip
    axes[2].set(title="|E G - E sds|^2 over |E sds|^2", ylim=(-0.01, None))
    axes[2].axhline(0, color="k", lw=0.8)
    shown = {"sds": "C4-", "ssd, M = 500": "C5-"}
    names = ("vsd", "all three, optimum", "depth, mu = 1", "normal, learnt element")
    shown |= {name: STYLES[name] for name in names}
    for name, style in shown.items():
        draw(axes[3], points, name, "theta", lambda f, n: f[n]["snr"], style)
    axes[3].set(title="squared mean over tr Cov, in theta", ylim=(0, None))
    for axis in axes:
        axis.set_xlabel(f"step, {row['prompt']!r}")
        axis.legend(
            fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13)
        )


def picture(rows: list[dict], path: Path) -> None:
    """Draws every prompt, a row each."""
    with saved_figure(path, figsize=(20, 5.6 * len(rows))) as figure:
        grid = figure.subplots(len(rows), 4, squeeze=False)
        for axes, row in zip(grid, rows):
            draw_prompt(axes, row)
