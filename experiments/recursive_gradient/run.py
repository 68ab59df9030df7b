"""What a gradient that is carried on from step to step is worth; see README.md.

One row a prior, prompt and step of a run of `sds`.

    python experiments/recursive_gradient/run.py            # small: the exact prior
    python experiments/recursive_gradient/run.py --full     # and toybox-sd, toybox-mv
    python experiments/recursive_gradient/run.py --assets   # whole runs: assets.py
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import assets
import numpy as np
from chains import CARRIED, describe, follow

from sdsjax.cli.checks import resolve
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, plus_minus, saved_figure
from sdsjax.studies.run_states import SDS_ON, reach
from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
COST = 2  # gradients a step of what is carried on


class Plan(NamedTuple):
    """Priors, prompts, the runs' length and marks.

    burn: steps of the chains before a mark; chains; plain: gradients drawn for the mean
    and the variance that they are compared with.
    """

    priors: tuple[str, ...]
    prompts: tuple[str, ...]
    marks: tuple[int, ...]
    total: int
    burn: int
    chains: int
    plain: int


SMALL = Plan(("exact",), ("a red snowman",), (60,), 600, 30, 6, 48)
FULL = Plan(
    ("exact", "toybox-sd", "toybox-mv"), ("a red snowman", "a blue house"),
    (60, 300), 600, 30, 6, 64,
)  # fmt: skip


def jobs(run: Run):
    """Every prior with every prompt at every mark."""
    for prompt in run.plan.prompts:
        for prior in run.plan.priors:
            for mark in run.plan.marks:
                yield f"{prior}, {prompt}, step {mark}", (prior, prompt, mark)


def worker(run: Run):
    enable_compile_cache()

    def perform(job: tuple[str, str, int]) -> dict:
        plan, (prior, prompt, mark) = run.plan, job
        given = {"prompt": prompt, "steps": plan.total}
        point = reach(resolve(SDS_ON[prior], given), mark - plan.burn)
        found = follow(point, plan.burn, plan.chains, plan.plain)
        return {"prior": prior, "chains": plan.chains} | describe(found)

    return perform


def worth(row: dict, name: str) -> list[float]:
    """Plain variance over that of an option, at equal cost: [value, error]."""
    plain, own = row["plain"], row["options"][name]["variance"]
    value = plain[0] / own[0] / (COST if name in CARRIED else 1)
    return [value, value * float(np.hypot(plain[1] / plain[0], own[1] / own[0]))]


def table(run: Run) -> str:
    """Markdown: a row a mark and option."""
    heads = ["state", "gradient", "variance", "mean away", "worth at equal cost"]
    rows = []
    for key, row in run.rows.items():
        signal = f"{row['plain'][0] / row['signal'][0]:.3g}"
        rows.append([key, "plain", f"{signal} x the squared mean", "", "1"])
        for name, found in row["options"].items():
            share = found["variance"][0] / row["plain"][0]
            error = share * worth(row, name)[1] / worth(row, name)[0]
            found_gain = f" ({row['gain']:.2g})" if name.endswith("found") else ""
            rows.append([
                "", name + found_gain, f"{plus_minus(share, error)} of plain's",
                plus_minus(*found["away"]), plus_minus(*worth(row, name)),
            ])  # fmt: skip
    return "\n".join([*markdown_table(heads, rows), ""])


def figure(run: Run) -> None:
    """Worth at equal cost against the distance of the mean, a colour an option."""
    with saved_figure(run.file(".png"), figsize=(6.5, 4)) as drawn:
        axes = drawn.subplots()
        names = list(next(iter(run.rows.values()))["options"])
        for name in names:
            found = [
                (worth(r, name), r["options"][name]["away"]) for r in run.rows.values()
            ]
            y, x = (np.array(part) for part in zip(*found))
            axes.errorbar(
                x[:, 0], y[:, 0], y[:, 1], x[:, 1], fmt="o", ms=4, lw=0.7, label=name
            )
        axes.axhline(2.0, color="k", lw=0.5, ls="--")
        axes.axvline(0.0, color="k", lw=0.5)
        axes.set(
            yscale="log", xlabel="squared distance of its mean / squared mean",
            ylabel="plain variance / its own, at equal cost",
        )  # fmt: skip
        axes.legend(fontsize=7)


def main(argv=None) -> None:
    variance = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table,
        figure=figure,
        options={
            "priors": Option("so named", tuple(FULL.priors)),
            "prompts": Option("of the runs"),
            "marks": Option("steps at which it is measured"),
            "chains": Option("chains of draws"),
        },
    )  # fmt: skip
    run(argv, variance, assets.experiment())


if __name__ == "__main__":
    main()
