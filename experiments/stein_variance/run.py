"""SteinDreamer's figures 1, 5, 6 and section 3, on an exact prior and on toybox-sd.

See README.md. Variance and bias of SDS, VSD, SSD and Stein along one run (exact.py);
with `--toybox` on toybox-sd (toybox.py).

    python experiments/stein_variance/run.py            # small: a minute or two
    python experiments/stein_variance/run.py --full     # README.md's tables
    python experiments/stein_variance/run.py --toybox   # on toybox-sd
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import toybox
from exact import Plan, adapter_with, make_prior, measure, plain_figures, runs
from exact_report import picture, table

from sdsjax.studies.runner import Experiment, Run, run

HERE = Path(__file__).resolve().parent
SMALL = Plan(6, 3, 60, 0.03, 2, 128, 0.01)
FULL = Plan(8, 6, 600, 0.02, 4, 4096, 0.01)
LAGS = (0.0, 0.05, 0.2)
VARIANCES = (0.0, 0.01, 0.05, 0.2, 1.0)


def jobs(run: Run) -> Iterator[tuple[str, object]]:
    """Points of VSD's run, then psi set by hand at the last of them."""
    plan = run.plan
    for part in range(plan.parts + 1):
        yield f"step {plan.steps * part // plan.parts}", part
    for lag in LAGS:
        for variance in VARIANCES:
            yield f"lag {lag:g}, variance {variance:g}", (lag, variance)


def worker(run: Run):
    plan = run.plan
    prior = make_prior(plan)
    traces = runs(plan, prior)
    at = measure(plan, prior)

    def point(part: int):
        # VSD's own z: where its psi was trained; every estimator is measured there.
        z = traces["vsd"].z[part]
        psi = jax.tree.map(lambda leaf: leaf[part], traces["vsd"].state.psi)
        return z, psi, {n: traces[n].state.mu[part] for n in ("constant", "square")}

    def perform(job) -> dict:
        if isinstance(job, int):
            z, psi, mus = point(job)
            lag = float(jnp.sqrt(jnp.mean((psi.mean - z) ** 2)))
            row = {"step": plan.steps * job // plan.parts, "lag": lag}
            row["variance"] = float(jnp.exp(psi.log_variance))
            return row | {"figures": plain_figures(at(z, psi, mus))}
        z, _, mus = point(plan.parts)
        lag, variance = job
        psi = adapter_with(z, lag, variance, jax.random.key(9))
        return {
            "lag": lag,
            "variance": variance,
            **plain_figures(at(z, psi, mus))["vsd"],
        }

    return perform


def measured(run: Run) -> tuple[list[dict], list[dict]]:
    """The rows of VSD's run, and those with psi set by hand."""
    rows = list(run.rows.values())
    return [r for r in rows if "step" in r], [r for r in rows if "step" not in r]


def main(argv=None) -> None:
    exact = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker,
        table=lambda run: table(run.plan, *measured(run)),
        figure=lambda run: picture(*measured(run), run.file(".png")),
    )  # fmt: skip
    run(argv, exact, toybox.experiment())


if __name__ == "__main__":
    main()
