"""SSD's ablations on toybox-sd: Gaussians scored against the true object; README.md.

640 evaluations of the UNet a run (160 steps of 2 views x 2 calls) with the settings of
configs/base.py but for M, rescaling and reduction; learning rates times 3, as in the
league (../league). At M = 0 nothing seeks a mode, and the variants are one. One JSON
line a run in `results/`: what is there is not run again.

    python experiments/ssd_ablation/run.py --toybox           # small: two minutes
    python experiments/ssd_ablation/run.py --toybox --full    # README.md's table
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from variants import VARIANTS, ssd_at

from sdsjax.cli.checks import resolve
from sdsjax.studies.comparison import (
    Case,
    Comparison,
    Plan,
    comparison_experiment,
)
from sdsjax.studies.runner import Experiment
from sdsjax.training.build import build

HERE = Path(__file__).resolve().parent
CEILINGS = HERE.parent / "toybox_quality" / "results" / "full.jsonl"
PROMPTS = ("a blue house", "a pink teapot", "an orange cat")
SMALL = Plan(PROMPTS[:1], (0, 1), 40, swept=(500,))  # M
FULL = Plan(PROMPTS, (0, 1), 160, swept=(300, 500, 700, 1000))
DEFAULT = 500  # M of configs/base.py


def make(schedule, settings):
    return ssd_at(schedule, *settings)


def label(variant: str, m: int) -> str:
    return f"{variant}, M = {m}" if m else "h alone (M = 0)"


def cases(thresholds: tuple[int, ...]) -> list[Case]:
    """h alone, then every variant at every M."""

    def one(variant: str, m: int) -> Case:
        settings = jnp.float32(m), *map(jnp.float32, VARIANTS[variant])
        return Case(label(variant, m), "ssd", make, lambda seed: settings)

    return [one("SSD", 0), *(one(v, m) for v in VARIANTS for m in thresholds)]


def against(thresholds: tuple[int, ...]) -> dict[str, dict[str, str]]:
    """Every case against the default; every variant against SSD at its M."""
    default = label("SSD", DEFAULT)
    return {
        f"- ({default})": {case.label: default for case in cases(thresholds)},
        "- SSD at this M": {
            label(v, m): label("SSD", m)
            for v in VARIANTS
            if v != "SSD"
            for m in thresholds
        },
    }


def build_run(prompt: str, steps: int, views: int):
    given = {"prompt": prompt, "steps": steps, "batch_size": views}
    return build(resolve("ssd:toybox", given))


def compared(plan: Plan) -> Comparison:
    return Comparison(cases(plan.swept), against(plan.swept))


def experiment() -> Experiment:
    return comparison_experiment(
        folder=HERE, description=__doc__, ceilings=CEILINGS, small=SMALL, full=FULL,
        compared=compared, build=build_run,
    )  # fmt: skip
