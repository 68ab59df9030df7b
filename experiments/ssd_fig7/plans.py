"""How SSD is run on its mixture: the plans, the cases of the sweep, the paths drawn."""

from __future__ import annotations

from typing import NamedTuple

from mixture import Case


class Plan(NamedTuple):
    """How long the runs are, and what is swept.

    steps; learning rate, falling tenfold; seeds (a start each); thresholds M; cases of
    the sweep.
    """

    steps: int
    rate: float
    seeds: int
    thresholds: tuple[int, ...]
    cases: tuple[Case, ...]


PLANE = (
    Case("uniform t"),
    Case("two phases, [20, 500] last", "two_phase"),
    Case("two phases, [20, M] last", "seek_last"),
    Case("window falling to 50", "annealed"),
    Case("uniform t, not rescaled", rescale=False),
    Case("uniform t, - eps", reduction="sds"),
    Case("uniform t, no reduction", reduction="none"),
    Case("uniform t, SGD", optimizer="sgd"),
)
DIMENSIONS = tuple(
    Case(f"{d}-D, {how}, {name}", sampler, d, how)
    for d, how in ((2, "pad"), (32, "pad"), (8, "tile"), (32, "tile"))
    for name, sampler in (("uniform t", "uniform"), ("to 50", "annealed"))
)
SMALL = Plan(600, 0.02, 4, (0, 100, 300, 700), (PLANE[0], PLANE[3]))
FULL = Plan(
    4000, 0.01, 16,
    (0, 25, 50, 100, 147, 200, 300, 400, 500, 600, 700, 850, 1000),
    PLANE + DIMENSIONS[2:],
)  # fmt: skip
# name: (term, case, M, start, colour)
PATHS = {
    "mode-seeking": ("mode_seeking", PLANE[0], 0, 0, "tab:blue"),
    "mode-disengaging": ("mode_disengaging", PLANE[0], 0, 0, "tab:green"),
    "mode-disengaging, from the trap": ("mode_disengaging", PLANE[0], 0, 1, "purple"),
    "SDS, s = 101": ("sds", PLANE[0], 0, 0, "tab:gray"),
    "SSD, M = 100": ("ssd", PLANE[0], 100, 0, "tab:orange"),
    "SSD, M = 400, not rescaled": ("ssd", PLANE[4], 400, 0, "tab:olive"),
    "SSD, M = 700, window falling to 50": ("ssd", PLANE[3], 700, 0, "tab:red"),
}
