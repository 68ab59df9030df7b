"""SSD's figure 7 on its own mixture, and where SSD settles; see README.md.

Paths of single estimators (mixture.py has the notation), then ends of SSD at every M.

    python experiments/ssd_fig7/run.py            # small: a minute or two
    python experiments/ssd_fig7/run.py --full     # the sweep of README.md
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from figure import SETTLED, picture
from mixture import (
    MEANS,
    STARTS,
    Case,
    lift,
    log_density,
    merging_time,
    score_end,
    tail,
    trajectory,
)
from plans import DIMENSIONS, FULL, PATHS, PLANE, SMALL, Plan

from sdsjax.studies.report import markdown_table
from sdsjax.studies.results import pack_array, unpack_array
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.studies.statistics import wilson_interval

HERE = Path(__file__).resolve().parent


def ends_of(plan: Plan, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The ends [seeds 2] of one of PATHS, and the first seed's path [steps + 1, 2].

    Ends are means over the last tenth of the run.
    """
    term, case, threshold, start, _ = PATHS[name]
    keys = jax.random.split(jax.random.key(7), plan.seeds)
    walk = partial(trajectory, term, case, plan, jnp.asarray(STARTS[start]))
    paths = np.asarray(jax.jit(jax.vmap(partial(walk, threshold)))(keys))
    return paths[:, -paths.shape[1] // 10 :].mean(1), paths[0]


def sweep(plan: Plan, case: Case):
    """Where every run of SSD ends: (distance, place) [starts, thresholds, seeds]."""
    modes = jnp.asarray(lift(MEANS[1:], case.d, case.how))

    def one(start, threshold, key):
        path = trajectory("ssd", case, plan, start, threshold, key)
        return score_end(tail(path), modes)

    over_seeds = jax.vmap(one, (None, None, 0))
    over_all = jax.vmap(jax.vmap(over_seeds, (None, 0, None)), (0, None, None))
    keys = jax.random.split(jax.random.key(case.d), plan.seeds)
    starts = jnp.asarray(lift(STARTS, case.d, case.how))
    found = jax.jit(over_all)(starts, jnp.asarray(plan.thresholds), keys)
    return tuple(np.asarray(a) for a in found)


def jobs(run: Run) -> Iterator[tuple[str, object]]:
    """Every path, then every case of the sweep."""
    for name in PATHS:
        yield f"path | {name}", name
    for case in run.plan.cases:
        yield f"sweep | {case.name}", case


def worker(run: Run):
    def perform(job) -> dict:
        if isinstance(job, Case):
            near, along = sweep(run.plan, job)
            return {"distance": pack_array(near), "place": pack_array(along)}
        ends, first = ends_of(run.plan, job)
        return {"ends": pack_array(ends), "first": pack_array(first)}

    return perform


def swept(run: Run) -> dict[str, np.ndarray]:
    """case -> distance to a mode [starts, thresholds, seeds]."""
    rows = {case.name: run.rows.get(f"sweep | {case.name}") for case in run.plan.cases}
    return {name: unpack_array(row["distance"]) for name, row in rows.items() if row}


def table(run: Run) -> str:
    """Markdown: ends of the trajectories, then what M does in every case."""
    plan, top = run.plan, log_density(MEANS[1:]).max()
    paths, sweeps = [], []
    for name in PATHS:
        ends = unpack_array(run.rows[f"path | {name}"]["ends"])
        near = np.min(np.linalg.norm(ends[:, None] - MEANS[1:], axis=-1), 1)
        figures = ends[:, 0], ends[:, 1], near, log_density(ends) - top
        cells = [f"{v.mean():.2f} +- {v.std(ddof=1):.2f}" for v in figures]
        paths.append([name, *cells])
    for case, near in swept(run).items():
        for start, found in zip(("(0, 0)", "(1.5, 1)"), near):
            cells = [
                f"{np.median(n):.2f} ({int((n < SETTLED).sum())}/{n.size})"
                for n in found
            ]
            sweeps.append([f"{case}, {start}", *cells])
    low, high = wilson_interval(plan.seeds, plan.seeds)
    first, *others = map(str, plan.thresholds)
    ends = ("ends at x", "y", "distance to a mode", "log p(end) / p(mode)")
    lines = [
        f"Modes merge from t = {merging_time()} on. {plan.steps} steps, "
        f"{plan.seeds} seeds; ends are means over the last tenth of a run, +- standard "
        "deviation over seeds.",
        "",
        *markdown_table(["trajectory", *ends], paths),
        "",
        *markdown_table(["SSD, start", f"M = {first}", *others], sweeps),
        "",
        f"Cells: median distance to the nearest mode (seeds within {SETTLED}). "
        f"{plan.seeds}/{plan.seeds} means a share of {low:.2f} to {high:.2f}, 0/"
        f"{plan.seeds} of 0 to {wilson_interval(0, plan.seeds)[1]:.2f} (95%, Wilson).",
    ]
    return "\n".join(lines) + "\n"


def figure(run: Run) -> None:
    paths = {
        name: (settings[4], unpack_array(run.rows[f"path | {name}"]["first"]))
        for name, settings in PATHS.items()
    }
    near = {name: found[0] for name, found in swept(run).items()}
    plane = [case.name for case in PLANE]
    rest = [plane[0], plane[3], *(case.name for case in DIMENSIONS)]
    of = [{n: near[n] for n in names if n in near} for names in (plane, rest)]
    picture(run.plan.thresholds, paths, *of, run.file(".png"))


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table, figure=figure
    )
    run(argv, experiment)


if __name__ == "__main__":
    main()
