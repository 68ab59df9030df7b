"""Cases compared on the toybox over equal pairs of (prompt, seed): runs, table, sheet.

A case is one way of distilling; every case makes the same number of steps of the same
views on every pair, and differences are taken within pairs. Errors are standard errors
over pairs, which count two seeds of a prompt as independent. Rows: see run_rows.py; a
case that has not all its pairs is shown with those there are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdsjax.diffusion.timesteps import Sampler
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.run_rows import (
    ceilings_of,
    complete,
    mean_error,
    paired,
    save_picture,
    share_of,
    sheet_of,
)
from sdsjax.studies.toybox_run import ToyboxRuns, side_by_side, true_views
from sdsjax.types import Estimator, PyTree

Pair = tuple[str, int]
# name of the figure: (value of a row's scores and its ceiling's, digits)
FIGURES: dict[str, tuple[Callable[[Mapping, Mapping], float], int]] = {
    "share of the ceiling": (share_of, 3),
    "IoU": (lambda truth, ceiling: truth["iou"], 3),
    "PSNR, dB": (lambda truth, ceiling: truth["psnr"], 2),
}


class Case(NamedTuple):
    """label: in tables and keys; name, make, sampler: as `ToyboxRuns.run` takes them;
    settings: seed -> the traced settings."""

    label: str
    name: Hashable
    make: Callable[..., Estimator]
    settings: Callable[[int], PyTree]
    sampler: Callable[[PyTree], Sampler] | None = None


class Plan(NamedTuple):
    """prompts x seeds; steps and views of a step; factor of every learning rate."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    views: int = 2
    rate: float = 3.0

    def pairs(self) -> list[Pair]:
        return [(prompt, seed) for seed in self.seeds for prompt in self.prompts]

    def key(self, case: Case, pair: Pair) -> str:
        prompt, seed = pair
        return (
            f"{case.label} | {prompt} | seed {seed} | {self.steps} steps of "
            f"{self.views}, x{self.rate:g}"
        )

    def picture(self, case: Case, pair: Pair, root: Path) -> Path:
        kept = "".join(c if c.isalnum() else " " for c in self.key(case, pair))
        return root / f"{'-'.join(kept.split())}.png"


class Comparison(NamedTuple):
    """cases in the order of the table; against: heading -> (label of a case -> label of
    the case that is subtracted from it)."""

    plan: Plan
    cases: Sequence[Case]
    against: Mapping[str, Mapping[str, str]]


def perform(
    runs: ToyboxRuns,
    cases: Sequence[Case],
    plan: Plan,
    path: Path,
    root: Path,
    done: dict[str, dict],
    *,
    ends: float = float("inf"),
) -> bool:
    """Makes the runs that `done` lacks, all cases of a pair before the next pair; see
    `run_rows.complete`. Strips of views go to `root`."""

    def one(job: tuple[Case, Pair]) -> dict:
        case, pair = job
        prompt, seed = pair
        found = runs.run(
            case.name, case.make, case.settings(seed), prompt=prompt, seed=seed,
            steps=plan.steps, rate=plan.rate, sampler=case.sampler,
        )  # fmt: skip
        save_picture(found.strip, plan.picture(case, pair, root))
        key, truth = plan.key(case, pair), found.truth
        print(f"{key}: IoU {truth['iou']:.3f}, {truth['psnr']:.1f} dB", flush=True)
        return {
            "key": key,
            "case": case.label,
            "prompt": prompt,
            "seed": seed,
            "finite": found.finite,
            "truth": truth,
            "cpu_seconds": found.cpu_seconds,
        }

    jobs = [
        (plan.key(case, pair), (case, pair)) for pair in plan.pairs() for case in cases
    ]
    return complete(jobs, one, path, done, ends=ends)


def values(
    case: Case, plan: Plan, done: Mapping, ceilings: Mapping, figure: str
) -> dict[Pair, float]:
    """A figure of FIGURES by pair, of the runs there are."""
    measure, _ = FIGURES[figure]
    rows = {pair: done.get(plan.key(case, pair)) for pair in plan.pairs()}
    return {
        pair: measure(row["truth"], ceilings[pair[0]])
        for pair, row in rows.items()
        if row
    }


def table(compared: Comparison, done: Mapping, ceilings: Mapping) -> str:
    """Markdown: each figure, then differences of the share."""
    plan, cases, against = compared
    share = next(iter(FIGURES))
    of = {c.label: values(c, plan, done, ceilings, share) for c in cases}
    lines = [
        f"toybox-sd, Gaussians, {plan.steps} steps of {plan.views} views, learning "
        f"rates x{plan.rate:g}; {len(plan.prompts)} prompts x {len(plan.seeds)} seeds. "
        "+-: standard error over these pairs; differences of the share are taken "
        "within pairs.",
        "",
        "| case | " + " | ".join((*FIGURES, *against)) + " | CPU s a run | runs |",
        "|---" * (len(FIGURES) + len(against) + 3) + "|",
    ]
    for case in cases:
        if not of[case.label]:
            continue
        cells = [case.label]
        for figure, (_, digits) in FIGURES.items():
            found = values(case, plan, done, ceilings, figure)
            mean, error = mean_error(list(found.values()))
            cells.append(f"{mean:.{digits}f} +- {error:.{digits}f}")
        for bases in against.values():
            base = bases.get(case.label)
            cells.append("-" if base is None else gap(of[case.label], of[base]))
        pairs = of[case.label]
        rows = [done[plan.key(case, pair)] for pair in pairs]
        cells.append(f"{np.mean([row['cpu_seconds'] for row in rows]):.1f}")
        wrong = sum(not row["finite"] for row in rows)
        cells.append(f"{len(rows)}" + (f" ({wrong} not finite)" if wrong else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gap(rows: Mapping[Pair, float], base: Mapping[Pair, float]) -> str:
    """The mean difference within pairs and its error; "-" for none or a base itself."""
    if rows is base:
        return "-"
    mean, error, count = paired(rows, base)
    return f"{mean:+.3f} +- {error:.3f}" if count else "-"


def draw_sheet(
    cases: Sequence[Case], plan: Plan, root: Path, path: Path, shown: int = 0
) -> None:
    """The truth, then a row a case, a column a prompt, of the seed number `shown`; see
    `run_rows.sheet_of`."""
    truth = [side_by_side(true_views(prompt)[2]) for prompt in plan.prompts]
    pairs = [(prompt, plan.seeds[shown]) for prompt in plan.prompts]
    rows = [
        (case.label, [plan.picture(case, pair, root) for pair in pairs])
        for case in cases
    ]
    sheet_of(rows, plan.prompts, path, first=[("truth", truth)])


def command(
    argv: Sequence[str] | None,
    *,
    text: str,
    folder: Path,
    ceilings: Path,
    small: Comparison,
    full: Comparison,
    pieces: Callable[[str, int, int], Any],
) -> None:
    """The `--toybox` half of an experiment's run.py: runs, table and sheet.

    text: what it does; folder: the experiment's, with its `results/`; ceilings: rows of
    experiments/toybox_quality; pieces: (prompt, steps, views) -> as of `ToyboxRuns`.
    """
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--toybox", action="store_true", help="this one")
    parser.add_argument("--full", action="store_true", help="README.md's table")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin none later")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs") / folder.name)
    parser.add_argument("--out", type=Path, default=folder / "results")
    options = parser.parse_args(argv)
    compared, size = (full, "full") if options.full else (small, "small")
    plan, cases, _ = compared
    path = options.out / f"{size}-toybox.jsonl"
    done = read_rows(path, "key")
    if not options.only_report:
        enable_compile_cache()
        runs = ToyboxRuns(lambda prompt, steps: pieces(prompt, steps, plan.views))
        ends = time.monotonic() + 60 * options.minutes
        perform(runs, cases, plan, path, options.runs, done, ends=ends)
    if not done:
        raise SystemExit(f"{path} holds no run yet: leave out --only-report")
    report = table(compared, done, ceilings_of(ceilings))
    path.with_suffix(".md").write_text(report)
    draw_sheet(cases, plan, options.runs, path.with_suffix(".png"))
    print(report)
