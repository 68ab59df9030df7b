"""SSD's figures 9 and 16-19: norms, correlation, r and c* by t; see README.md.

At a fixed rendering x, many noises a timestep: |e_y|, |h|, the linear correlation of
e_y and eps, r against c*, the variance that each reduction leaves, and one step's
gradient as a picture. Every number has a jackknife error over 16 groups.

    python experiments/ssd_norms/run.py            # small: 512 noises, exact priors
    python experiments/ssd_norms/run.py --full     # 8 192 noises
    python experiments/ssd_norms/run.py --full --toybox   # toybox-sd, 256 noises
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from measure import SCHEDULE, SUBSPACE, Plan, exact_cases, fields, measure, toybox_case

from sdsjax.studies.report import markdown_table, plus_minus, saved_figure
from sdsjax.studies.results import pack_array, unpack_array
from sdsjax.studies.runner import Experiment, Run, run

HERE = Path(__file__).resolve().parent
FIELD_TIMES = (20, 200, 500)
EXACT = ("points", "spread .02", "spread .1")
NETWORK = ("toybox-sd",)
DRAWN = ("spread .02", "toybox-sd")  # of which the figure shows fields

SMALL = Plan(512, (20, 200, 500, 900), 12, 32)
FULL = Plan(8192, (20, 100, 200, 300, 400, 500, 600, 700, 850, 980), 12, 256)
COLUMNS = {
    "cond_norm": "|e_y|",
    "h_norm": "|h|",
    "correlation": "correlation",
    "c_star": "c*",
    "r_min": "r min",
    "r_mean": "r mean",
    "r_max": "r max",
    "left_none": "Var e_y",
    "left_sds": "Var e_y - eps",
    "left_adaptive": "Var e_y - r eps",
    "left_optimal": "Var e_y - c* eps",
    "estimate": "Var zhat",
}


def worker(run: Run):
    cases: dict = {}

    def perform(name: str) -> dict:
        if not cases:
            exact = name not in NETWORK
            cases.update(
                exact_cases(run.plan) if exact else {name: toybox_case(run.plan)}
            )
        case = cases[name]
        enough = case.noises > 2 * min(SUBSPACE, case.z.size)
        times = measure(case, run.plan.times, with_correlation=enough)
        row = {"d": case.z.size, "noises": case.noises, "times": times}
        if name in DRAWN:
            # of a latent the first three channels
            row["fields"] = pack_array(fields(case, FIELD_TIMES)[..., :3])
        return row

    return perform


def with_estimate(t: int, at: dict) -> dict:
    """What was measured at t, and the variance of the one-step estimate of z.

    zhat = z - (sigma / alpha) (e_y - eps), so that at a fixed z its total variance is
    (sigma / alpha)^2 times that of e_y - eps: how far the picture that SDS pulls
    towards, seen as an L2 loss, moves from one noise to the next (guidance 1).
    """
    ratio = float(SCHEDULE.sigmas[t] / SCHEDULE.alphas[t]) ** 2
    return at | {"estimate": [ratio * number for number in at["left_sds"]]}


def table(run: Run) -> str:
    """Markdown: one table a prior."""
    lines = []
    for name, row in run.rows.items():
        lines += [f"**{name}**: d = {row['d']}, {row['noises']} noises a timestep", ""]
        found = [with_estimate(t, at) for t, at in zip(run.plan.times, row["times"])]
        rows = [
            [f"{t}", *(plus_minus(*at[c]) if c in at else "-" for c in COLUMNS)]
            for t, at in zip(run.plan.times, found)
        ]
        lines += [*markdown_table(["t", *COLUMNS.values()], rows), ""]
    return "\n".join(lines)


def draw_figures(axes, times, rows: dict[str, list[dict]]) -> None:
    """Draws norms, correlation, r and c*, variances (figs. 16-19).

    rows: prior -> what was measured at each of the times.
    """
    for index, (name, found) in enumerate(rows.items()):
        color = f"C{index}"

        def line(axis, column, style, label, found=found, color=color):
            if column not in found[0]:
                return
            value, error = np.array([row[column] for row in found]).T
            axis.errorbar(
                times, value, error, fmt=style, color=color, label=label, ms=3
            )

        line(axes[0], "cond_norm", "o-", f"|e_y|, {name}")
        line(axes[0], "h_norm", "s--", f"|h|, {name}")
        line(axes[1], "correlation", "o-", name)
        line(axes[2], "c_star", "o-", f"c*, {name}")
        low, high = ([row[k][0] for row in found] for k in ("r_min", "r_max"))
        axes[2].fill_between(times, low, high, color=color, alpha=0.25)
        line(axes[3], "left_none", "o-", f"e_y, {name}")
        line(axes[3], "left_sds", "x:", f"e_y - eps, {name}")
        line(axes[3], "left_adaptive", "s--", f"e_y - r eps, {name}")
    titles = (
        "norms (figs. 16, 19)", "linear correlation (fig. 17)",
        "c* and the range of r (fig. 18)", "total variance left",
    )  # fmt: skip
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel="t")
        axis.legend(fontsize=6)
    axes[0].set_yscale("log")
    axes[3].set_yscale("log")


def figure(run: Run) -> None:
    """Figs. 16-19 above, the fields (fig. 9) below."""
    shown = [row["fields"] for row in run.rows.values() if "fields" in row]
    with saved_figure(run.file(".png"), figsize=(15, 9)) as drawn:
        upper, lower = drawn.subfigures(2, 1, height_ratios=(1, 1.1))
        rows = {name: row["times"] for name, row in run.rows.items()}
        draw_figures(upper.subplots(1, 4), run.plan.times, rows)
        names = ("e_y", "e_y - eps", "e_y - r eps", "mean of 256 e_y")
        grid = lower.subplots(len(FIELD_TIMES), 4, squeeze=False)
        for found, t, line_of_axes in zip(unpack_array(shown[0]), FIELD_TIMES, grid):
            scale = np.abs(found[2]).max()
            for values, title, axis in zip(found, names, line_of_axes):
                axis.imshow(np.clip(0.5 + 0.5 * values / scale, 0, 1))
                axis.set_title(f"{title}, t = {t}", fontsize=8)
                axis.set_axis_off()


def experiment(names: tuple[str, ...], flag: str, stem: str) -> Experiment:
    return Experiment(
        HERE, __doc__, SMALL, FULL, jobs=lambda run: [(name, name) for name in names],
        worker=worker, table=table, figure=figure, flag=flag, stem=stem,
    )  # fmt: skip


def main(argv=None) -> None:
    exact = experiment(EXACT, "", "{size}")
    run(argv, exact, experiment(NETWORK, "--toybox", "{size}-toybox"))


if __name__ == "__main__":
    main()
