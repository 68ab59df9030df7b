"""The season's figure: how the order moves as the views grow ambiguous.

A panel a column, along the dial: a row a rank, the share of the ceiling with its error
on it, bars beside it that join whom no bootstrap tells apart, and lines that carry each
estimator to its place in the next panel, coloured by what an update of it costs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from placing import Standing, price_of, standings, title_of
from season import Plan

from sdsjax.studies.ranks import groups
from sdsjax.studies.report import save_sheet_of_files, saved_figure
from sdsjax.studies.statistics import mean_error
from sdsjax.studies.toybox_run import side_by_side, true_views

WIDE, GAP = 1.0, 0.62  # of a panel, and of the flow between two
SHOWN = 2  # prompts of a sheet


def cost(plan: Plan, name: str, rows) -> float:
    """The operations of an update over SDS's, on the trained prior."""
    own, sds = (price_of(plan, "toybox-mv", one, rows) for one in (name, "sds"))
    return own / sds


def words(name: str) -> str:
    """An estimator's name as a label."""
    return name.replace("_", " ")


class Canvas:
    """One set of axes on which panels stand side by side, each with the same scale.

    x = panel * (WIDE + GAP) + WIDE * (share - low) / (high - low); y = -rank.
    """

    def __init__(self, axes, plan: Plan, found: list[Standing], colors: dict):
        self.plan, self.axes, self.found, self.colors = plan, axes, found, colors
        ends = [mean_error(row) for one in found for row in one.scores]
        self.low = np.floor(20 * min(m - e for m, e in ends)) / 20
        self.high = np.ceil(20 * max(m + e for m, e in ends)) / 20

    def left(self, panel: int) -> float:
        """The x of a panel's left edge."""
        return panel * (WIDE + GAP)

    def x(self, panel: int, value) -> float:
        """The x of a share in a panel."""
        return self.left(panel) + WIDE * (value - self.low) / (self.high - self.low)

    def panel(self, panel: int) -> None:
        """Draws a column: its scale, its bars and its estimators."""
        one, axes, left = self.found[panel], self.axes, self.left(panel)
        bottom = -len(one.names) + 0.45
        for value in np.arange(self.low, self.high + 1e-9, 0.05):
            x = self.x(panel, value)
            axes.plot([x, x], [0.55, bottom], color="0.9", lw=0.6, zorder=0)
            if round(20 * value) % 2 == 0:
                axes.text(x, bottom - 0.1, f"{value:.1f}", ha="center", va="top",
                          fontsize=7, color="0.35")  # fmt: skip
        title = title_of(self.plan, one).replace(", at", ",\nat")
        axes.text(left + WIDE / 2, 0.8, title, ha="center", va="bottom", fontsize=9,
                  weight="bold")  # fmt: skip
        for place, name in enumerate(one.names):
            mean, error = mean_error(one.scores[place])
            axes.plot(
                [left, left + WIDE], [-place, -place], color="0.93", lw=0.6, zorder=0
            )
            axes.errorbar(
                self.x(panel, mean), -place, xerr=WIDE * error / (self.high - self.low),
                fmt="o", ms=4.5, color=self.colors[name], ecolor="0.2", elinewidth=1,
                mec="0.2", mew=0.5, zorder=4,
            )  # fmt: skip
        self.bars(panel)

    def bars(self, panel: int) -> None:
        """Draws the groups of more than one, each beside the one before it."""
        runs = [run for run in groups(self.found[panel].ranking) if len(run) > 1]
        for number, run in enumerate(runs):
            x = self.left(panel) + 0.02 + 0.028 * (number % 3)
            self.axes.plot([x, x], [-run[0] + 0.3, -run[-1] - 0.3], color="0.45",
                           lw=2.4, solid_capstyle="butt", zorder=2)  # fmt: skip

    def flow(self, panel: int) -> None:
        """Draws the lines from a panel to the next one."""
        one, two = self.found[panel : panel + 2]
        u = np.linspace(0, 1, 40)
        bend = u * u * (3 - 2 * u)
        for place, name in enumerate(one.names):
            if name in two.names:
                end = two.names.index(name)
                xs, ys = self.left(panel) + WIDE + GAP * u, place + (end - place) * bend
                self.axes.plot(xs, -ys, lw=2.2, color=self.colors[name], alpha=0.9,
                               zorder=1)  # fmt: skip

    def names(self, panel: int, side: str) -> None:
        """Writes the estimators' names at the left or the right of a panel."""
        for place, name in enumerate(self.found[panel].names):
            x = self.left(panel) + (-0.04 if side == "left" else WIDE + 0.04)
            self.axes.text(x, -place, words(name), va="center", fontsize=8,
                           ha="right" if side == "left" else "left")  # fmt: skip


def flow(plan: Plan, rows, path: Path) -> None:
    """Draws the panels there are; nothing without the price of the trained prior."""
    import matplotlib
    from matplotlib.colors import LogNorm

    found = standings(plan, rows)
    try:
        costs = {name: cost(plan, name, rows) for one in found for name in one.names}
    except KeyError:
        return
    scale = LogNorm(min(costs.values()), max(costs.values()))
    shade = matplotlib.colormaps["plasma_r"]
    colors = {name: shade(0.12 + 0.88 * scale(value)) for name, value in costs.items()}
    with saved_figure(path, dpi=110, figsize=(2.9 * len(found) + 2.6, 5.6)) as drawn:
        axes = drawn.subplots()
        canvas = Canvas(axes, plan, found, colors)
        for panel in range(len(found)):
            canvas.panel(panel)
            if panel + 1 < len(found):
                canvas.flow(panel)
        canvas.names(0, "left")
        canvas.names(len(found) - 1, "right")
        axes.set_xlim(-0.75, canvas.left(len(found) - 1) + WIDE + 0.75)
        axes.axis("off")
        drawn.suptitle(
            "Share of the ceiling at equal operations, best first. A grey bar joins "
            "whom the bootstrap over prompts does not tell apart.", fontsize=9,
        )  # fmt: skip
        _legend(drawn, axes, costs, colors)


def _legend(drawn, axes, costs: dict, colors: dict) -> None:
    from matplotlib.lines import Line2D

    seen: dict[str, tuple] = {}
    for name in sorted(costs, key=lambda name: costs[name]):
        seen.setdefault(f"{costs[name]:.2f}", colors[name])
    handles = [
        Line2D([], [], color=color, lw=3, label=text) for text, color in seen.items()
    ]
    drawn.legend(
        handles=handles, title="operations of an update over SDS's, on toybox-mv",
        loc="outside lower center", ncols=len(handles), fontsize=8, title_fontsize=8,
        frameon=False,
    )  # fmt: skip


def sheets(plan: Plan, rows, root: Path, stem: Path) -> None:
    """Draws a sheet a column, <stem>-<column>.png: truth, best to worst, seed 0."""
    prompts = plan.reported()[:SHOWN]

    def truth() -> list[tuple[str, list[np.ndarray]]]:
        return [("truth", [side_by_side(true_views(p)[2]) for p in prompts])]

    for one in standings(plan, rows):
        strips = [
            (words(name).replace("mode ", "mode\n"),
             [one.jobs[name][p, 0].picture(root) for p in prompts])
            for name in one.names
        ]  # fmt: skip
        path = stem.with_name(f"{stem.name}-{one.column}.png")
        save_sheet_of_files(strips, prompts, path, first=truth)
