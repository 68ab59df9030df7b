"""What the default job takes before its first step and after its last; see README.md.

Every run is a process of its own, with an empty compile cache and then once more with
what the first one left there. Several trees (checkouts) take turns, so that a machine
that is slow for a while is slow for all.

    python experiments/startup/run.py                            # small: 20 steps, once
    python experiments/startup/run.py --full                     # 600 steps, 3 times
    python experiments/startup/run.py --full --trees before=PATH  # beside another tree
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
BEFORE = ("import", "config", "prompt and networks", "compile, first 10 steps")
DURING = ("step", "checkpoint", "preview")
AFTER = ("finished",)
ENDS = (
    "before the first step",
    "steps, previews, checkpoints",
    "after the last step",
)
CACHES = ("cold", "warm")
FIRST = 10  # steps that are over when the first line of the history is written


class Plan(NamedTuple):
    """What is run: steps of a job, jobs of each kind, and NAME=PATH of other trees."""

    steps: int
    repeats: int
    trees: tuple[str, ...] = ("",)


def perform(tree: Path, steps: int, cache: Path) -> dict[str, Any]:
    """Runs the job of a checkout once; returns what worker.py prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {
        "PYTHONPATH": str(tree),
        "SDSJAX_COMPILE_CACHE": str(cache),
        "XDG_CACHE_HOME": str(cache),
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "worker.py"), str(steps), f"{folder}/run"]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder
        )
    if done.returncode:
        raise SystemExit(f"the job of {tree} failed; see its error above")
    return json.loads(done.stdout.splitlines()[-1])


def summary(row: dict[str, Any], steps: int) -> dict[str, tuple[float, float]]:
    """The parts of one run, (wall clock, processor) in seconds.

    The first ten steps are counted at the mean of the later ones among the steps;
    `before` and `after` are without them.
    """
    parts: dict[str, tuple[float, float]] = {}
    for name, *spent in row["marks"]:
        wall, processor = parts.get(name, (0.0, 0.0))
        parts[name] = wall + spent[0], processor + spent[1]

    def total(names):
        found = [parts[name] for name in names if name in parts]
        return tuple(sum(column) for column in zip(*found))

    later = parts["step"]
    ten = tuple(FIRST * spent / (steps - FIRST) for spent in later)
    before, during = total(BEFORE), total(DURING)
    without = tuple(b - t for b, t in zip(before, ten))
    within = tuple(d + t for d, t in zip(during, ten))
    return parts | dict(zip(ENDS, (without, within, total(AFTER))))


def medians(rows: Sequence[dict], steps: int) -> dict[str, tuple[float, float]]:
    """The median of every part over repeats, wall clock and processor apart."""
    runs = [summary(row, steps) for row in rows]
    return {
        name: tuple(
            statistics.median(column) for column in zip(*(r[name] for r in runs))
        )
        for name in runs[0]
    }


def share(parts: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """(before + after) / steps, by wall clock and by processor time."""
    before, during, after = (parts[name] for name in ENDS)
    return tuple((b + a) / d for b, d, a in zip(before, during, after))


def table(rows: dict[str, dict[str, list[dict]]], steps: int) -> str:
    """Markdown: a column a tree and cache, cells wall clock / processor seconds."""
    runs = {f"{tree} {cache}": rows[tree][cache] for tree in rows for cache in CACHES}
    found = {name: medians(each, steps) for name, each in runs.items()}
    lines: list[tuple[str, list[str]]] = []
    for part in (*BEFORE, *DURING, *ENDS):
        pairs = [parts.get(part) for parts in found.values()]
        cells = [f"{pair[0]:.1f} / {pair[1]:.1f}" if pair else "" for pair in pairs]
        lines.append((part, cells))
    shares = [share(parts) for parts in found.values()]
    cells = [f"{wall:.2f} / {processor:.2f}" for wall, processor in shares]
    lines.append(("(before + after) / steps", cells))
    counts = [
        statistics.median(r["compilations"] for r in each) for each in runs.values()
    ]
    lines.append(("programs compiled or read", [f"{count:.0f}" for count in counts]))
    for name in sorted({name for each in runs.values() for name in each[0]["exports"]}):
        spent = [[r["exports"].get(name) for r in each] for each in runs.values()]
        known = [[s for s in each if s is not None] for each in spent]
        cells = [f"{statistics.median(each):.1f}" if each else "" for each in known]
        lines.append((f"export {name}, wall clock", cells))
    digests = [sorted({r["sha256"][:12] for r in each}) for each in runs.values()]
    lines.append(("sha256 of the state", [" ".join(each) for each in digests]))
    head = ["seconds, wall clock / processor", *runs]
    text = [head, ["---"] * len(head), *([part, *cells] for part, cells in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in text)


def measure(run: Run) -> dict:
    """Every repeat of every tree, in turns: tree -> cache -> what worker.py printed."""
    plan = run.plan
    trees = dict(text.split("=", 1) for text in plan.trees if text)
    trees["now"] = str(HERE.parents[1])
    rows: dict = {name: {cache: [] for cache in CACHES} for name in trees}
    for repeat in range(plan.repeats):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as cache:
                for kind in CACHES:
                    row = perform(Path(tree).resolve(), plan.steps, Path(cache))
                    rows[name][kind].append(row)
                    said = f"[{repeat + 1}/{plan.repeats}] {name}, {kind}"
                    print(said, file=sys.stderr)
    return {"steps": plan.steps, "trees": rows}


EXPERIMENT = Experiment(
    folder=HERE,
    description=__doc__,
    small=Plan(steps=20, repeats=1),
    full=Plan(steps=600, repeats=3),
    measure=measure,
    table=lambda run: table(run.rows["trees"], run.rows["steps"]),
    options={
        "steps": Option("steps of a job, more than 10"),
        "repeats": Option("jobs of each kind"),
        "trees": Option("other checkouts, NAME=PATH, beside this one"),
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    run(argv, EXPERIMENT)


if __name__ == "__main__":
    main()
