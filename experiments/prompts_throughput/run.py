"""Assets an hour: many prompts in one process against as many single runs.

Every job is the command line in a process of its own, with an empty compile cache each
("cold"). A repeat trains the first n prompts together for each n, and between those
every prompt alone, so that a machine that is slow for a while is slow for both; what n
prompts take alone is the sum of the first n.

    python experiments/prompts_throughput/run.py         # small: 2 prompts, 20 steps
    python experiments/prompts_throughput/run.py --full  # 1, 4, 8 prompts, 600 steps
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Option, Run, run
from sdsjax.toybox.world.objects import COLORS, KINDS

HERE = Path(__file__).resolve().parent


class Plan(NamedTuple):
    """What is run: numbers of prompts, steps of a job, how often, and the config."""

    counts: tuple[int, ...]
    steps: int
    repeats: int
    config: str = "ssd"


def prompts(count: int) -> list[str]:
    """Names the first `count` objects of the toybox, each in another colour."""
    colors = list(COLORS)
    return [f"a {colors[i % len(colors)]} {kind}" for i, kind in enumerate(KINDS)][
        :count
    ]


def perform(arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Runs the command line cold, in `folder`; seconds by clock and by processor.

    Raises SystemExit where it fails.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {
        "PYTHONPATH": str(HERE.parents[1]),
        "SDSJAX_COMPILE_CACHE": str(folder / "compiled"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "sdsjax.main", *arguments]
    before, start = _processor(), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see its error above")
    return {"clock": time.perf_counter() - start, "processor": _processor() - before}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def job(plan: Plan, chosen: Sequence[str]) -> dict[str, float]:
    """Runs prompts together, or the only one of them alone."""
    words = [f"--config={plan.config}", f"--config.steps={plan.steps}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if len(chosen) == 1:
            return perform([*words, f"--config.prompt={chosen[0]}"], folder)
        (folder / "list.txt").write_text("".join(f"{line}\n" for line in chosen))
        return perform([*words, "--prompts=list.txt"], folder)


def measure(run: Run) -> dict[str, Any]:
    """Every repeat: for each number of prompts together, then those not yet alone."""
    plan, rows = run.plan, []
    before = os.getloadavg()[0]
    for repeat in range(plan.repeats):
        together: dict[str, dict] = {}
        alone: list[dict] = []
        for count in sorted(plan.counts):
            chosen = prompts(count)
            if count > 1:
                together[str(count)] = job(plan, chosen)
            while len(alone) < count:
                alone.append(job(plan, chosen[len(alone) : len(alone) + 1]))
            said = f"[{repeat + 1}/{plan.repeats}] {count} prompt(s)"
            print(said, file=sys.stderr)
        rows.append({"together": together, "alone": alone})
    return {
        "steps": plan.steps,
        "config": plan.config,
        "rows": rows,
        "machine": {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
            "load": f"{before:.0f} before, {os.getloadavg()[0]:.0f} after",
            "jax": jax.__version__,
        },
    }


def ratio(row: dict[str, Any], count: str, clock: str) -> float:
    """The time of `count` prompts together over that of as many single runs."""
    alone = sum(one[clock] for one in row["alone"][: int(count)])
    return row["together"][count][clock] / alone


def table(run: Run) -> str:
    """Markdown: a row a number of prompts, medians over the repeats."""
    found, lines = run.rows, []
    for count in found["rows"][0]["together"]:
        cells = [count]
        for clock in ("clock", "processor"):
            taken = [row["together"][count][clock] for row in found["rows"]]
            alone = [
                sum(o[clock] for o in row["alone"][: int(count)])
                for row in found["rows"]
            ]
            ratios = [ratio(row, count, clock) for row in found["rows"]]
            cells += [
                f"{3600 * int(count) / statistics.median(taken):.3g}",
                f"{3600 * int(count) / statistics.median(alone):.3g}",
                f"{statistics.median(ratios):.2f}",
            ]
        lines.append(cells)
    heads = ["prompts", "assets an hour, together", "alone", "time, together / alone"]
    heads += ["assets a processor hour, together", "alone", "processor time, ratio"]
    machine = found["machine"]
    first = (
        f"{machine['date']}, {machine['cores']} cores, load {machine['load']}, jax "
        f"{machine['jax']}; {found['config']}, {found['steps']} steps, cold, "
        f"{len(found['rows'])} repeat(s).\n\n"
    )
    return first + "\n".join(markdown_table(heads, lines)) + "\n"


EXPERIMENT = Experiment(
    folder=HERE,
    description=__doc__,
    small=Plan(counts=(2,), steps=20, repeats=1),
    full=Plan(counts=(1, 4, 8), steps=600, repeats=3),
    measure=measure,
    table=table,
    options={
        "counts": Option("numbers of prompts"),
        "steps": Option("steps of a job"),
        "repeats": Option("how often"),
        "config": Option("the config and its variant"),
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    run(argv, EXPERIMENT)


if __name__ == "__main__":
    main()
