"""Variance of the gradient per unit of cost, by how a step's noises are drawn.

See README.md. k noises a rendering and each option of `config.noise`, alone and
together, with sds at one state of a run; one row a prior and prompt.

    python experiments/noise_samples/run.py            # small: the exact prior
    python experiments/noise_samples/run.py --full     # and toybox-sd, toybox-mv
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sampling import describe, gather, step_flops

from sdsjax.cli.checks import resolve
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, plus_minus, saved_figure
from sdsjax.studies.run_states import SDS_ON, reach
from sdsjax.studies.runner import Experiment, Option, Run, run
from sdsjax.training.noises.samples import NoiseSamples

HERE = Path(__file__).resolve().parent
# Operations of a view on Stable Diffusion 2.1: two branches of the UNet, and what does
# not depend on the noise, the encoder with its gradient
SD21 = 2 * 804.0, 2258.0
KINDS = {
    "plain": ({}, (1, 2, 4, 8)),
    "strata": ({"stratified": True}, (1, 2, 4, 8)),
    "pairs": ({"antithetic": True}, (2, 4, 8)),
    "common t": ({"common_time": True}, (1, 4)),
    "importance": ({"importance": True}, (1, 4)),
    "strata, pairs": ({"stratified": True, "antithetic": True}, (2, 4, 8)),
    "strata, pairs, importance": (
        {"stratified": True, "antithetic": True, "importance": True}, (4, 8),
    ),
}  # fmt: skip
OPTIONS = {
    f"{kind}, k = {k}": NoiseSamples(k, **options)
    for kind, (options, sizes) in KINDS.items()
    for k in sizes
}

FEW = (
    "plain, k = 1", "plain, k = 4", "strata, k = 4", "pairs, k = 4", "common t, k = 1",
    "importance, k = 1", "strata, pairs, importance, k = 4",
)  # fmt: skip


class Plan(NamedTuple):
    """Priors, prompts, samples of each, and the step (of total) they are taken at.

    options: names of OPTIONS, with plain sampling at k = 1 and at a larger k.
    """

    priors: tuple[str, ...]
    prompts: tuple[str, ...]
    samples: int
    steps: int
    total: int
    options: tuple[str, ...] = tuple(OPTIONS)


SMALL = Plan(("exact",), ("a red snowman",), 16, 20, 600, FEW)
FULL = Plan(("exact", "toybox-sd", "toybox-mv"), ("a red snowman",), 24, 60, 600)


def jobs(run: Run):
    """Every prior with every prompt."""
    for prior in run.plan.priors:
        for prompt in run.plan.prompts:
            yield f"{prior}, {prompt}", (prior, prompt)


def worker(run: Run):
    enable_compile_cache()

    def perform(job: tuple[str, str]) -> dict:
        plan = run.plan
        prior, prompt = job
        given = {"prompt": prompt, "steps": plan.total}
        point = reach(resolve(SDS_ON[prior], given), plan.steps)
        options = {name: OPTIONS[name] for name in plan.options}
        sizes = sorted({noise.per_view for noise in options.values()})
        reference = [name for name in options if name.startswith("plain")][-1]
        row = {"samples": plan.samples, "step": plan.steps}
        row["flops"] = {str(k): step_flops(point, k) for k in sizes}
        found = gather(point, options, plan.samples)
        return row | describe(found, reference)

    return perform


def costs_of(row: dict, k: int) -> dict[str, float]:
    """Cost of a step with k noises over that with one, in three currencies."""
    network, rest = SD21
    return {
        "calls": k,
        "flops": row["flops"][str(k)] / row["flops"]["1"],
        "SD 2.1": (k * network + rest) / (network + rest),
    }


def worth(row: dict, name: str, kind: str) -> dict[str, tuple[float, float]]:
    """Variance x cost of plain sampling at k = 1 over this option's, by currency.

    kind: "noise", at given views; "total": with that of the views, drawn anew each
    step. Errors of both noises, as though independent, and of the views.
    """
    views, e_views = row["views"] if kind == "total" else (0.0, 0.0)
    one, e_one = row["options"]["plain, k = 1"]["noise"]
    own, e_own = row["options"][name]["noise"]
    ratio = (views + one) / (views + own)
    if name == "plain, k = 1":
        e_one = e_own = 0.0
    relative = np.linalg.norm(
        [
            e_one / (views + one),
            e_own / (views + own),
            e_views * (1 / (views + one) - 1 / (views + own)),
        ]
    )
    costs = costs_of(row, OPTIONS[name].per_view)
    return {c: (ratio / cost, ratio * relative / cost) for c, cost in costs.items()}


def best_size(row: dict, fixed: float, each: float) -> float:
    """The k that minimises (views + noise / k) (fixed + each k), plain sampling."""
    noise = row["options"]["plain, k = 1"]["noise"][0]
    return float(np.sqrt(noise / row["views"][0] * fixed / each))


def split_flops(row: dict) -> tuple[float, float]:
    """(flops of a step that no noise changes, flops of a noise), by its ends in k."""
    one, most = row["flops"]["1"], max(map(int, row["flops"]))
    each = (row["flops"][str(most)] - one) / (most - 1)
    return one - each, each


def table(run: Run) -> str:
    """Markdown: one table a prior and prompt."""
    lines = []
    heads = (
        "noises", "noise in z", "noise in theta", "mean away", "noise, a call",
        "noise, a flop", "total, a flop", "total, SD 2.1's",
    )  # fmt: skip
    for key, row in run.rows.items():
        fixed, each = split_flops(row)
        network, rest = SD21
        lines += [
            f"**{key}**: step {row['step']}, {row['samples']} samples; in theta "
            f"|E G|^2 {plus_minus(*row['signal'])}, variance of the views "
            f"{plus_minus(*row['views'])}; a step's flops: {fixed:.3g} + {each:.3g} k. "
            "k at least variance a flop, plain, views drawn anew: "
            f"{best_size(row, fixed, each):.2f}; at SD 2.1's split "
            f"{best_size(row, rest, network):.2f}",
            "",
        ]
        cells = []
        for name, found in row["options"].items():
            noise, total = (worth(row, name, kind) for kind in ("noise", "total"))
            measured = (found[c] for c in ("noise_z", "noise", "away"))
            ratios = noise["calls"], noise["flops"], total["flops"], total["SD 2.1"]
            cells.append([name, *(plus_minus(*pair) for pair in (*measured, *ratios))])
        lines += [*markdown_table(heads, cells), ""]
    return "\n".join(lines)


def figure(run: Run) -> None:
    """Worth a flop against k, an axis for each prior and each variance."""
    with saved_figure(run.file(".png"), figsize=(4.5 * len(run.rows), 7)) as drawn:
        grid = drawn.subplots(2, len(run.rows), squeeze=False)
        for column, (key, row) in enumerate(run.rows.items()):
            for axes, kind in zip(grid, ("noise", "total")):
                for label, (_, sizes) in KINDS.items():
                    sizes = [k for k in sizes if f"{label}, k = {k}" in row["options"]]
                    if not sizes:
                        continue
                    names = [f"{label}, k = {k}" for k in sizes]
                    ratios = [worth(row, name, kind)["flops"] for name in names]
                    value, error = np.array(ratios).T
                    axes[column].errorbar(
                        sizes, value, error, marker="o", ms=3, label=label
                    )
                axes[column].set(
                    title=f"{kind} variance, {key}", xlabel="k", xscale="log"
                )
                axes[column].axhline(1.0, color="k", lw=0.5)
            grid[0][column].set_ylabel("worth of a flop")
        grid[0][0].legend(fontsize=6)


def main(argv=None) -> None:
    run(
        argv,
        Experiment(
            HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table,
            figure=figure,
            options={
                "priors": Option("so named", tuple(FULL.priors)),
                "samples": Option("of each option"),
                "options": Option("so named", tuple(OPTIONS)),
            },
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
