"""What watching a run costs a step, at the default settings; see README.md.

python experiments/diagnostics_cost/run.py            # small: a minute
python experiments/diagnostics_cost/run.py --full
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sdsjax.cli.checks import resolve
from sdsjax.runs.compile_cache import enable_compile_cache, light_compilation
from sdsjax.runs.logs import Log
from sdsjax.studies.benchmark import described_machine, machine_line
from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.training.build import build
from sdsjax.training.config import to_json
from sdsjax.training.session import Session
from sdsjax.training.train import run_directory

HERE = Path(__file__).resolve().parent
BARE = "bare: the step alone"
WATCHED = "watched: metrics, looks for NaN, lines of the log"
MEASURED = "watched, and the gradient's variance"


class Plan(NamedTuple):
    """Steps between two looks at the clock, and rounds of them; the config.

    variance_every: steps between two measurements of the variance, in the last row.
    """

    config: str
    block: int
    rounds: int
    variance_every: int


SMALL = Plan("ssd", 20, 5, 100)
FULL = Plan("ssd", 10, 15, 100)


class Watched:
    """A run in the middle of its steps, which can be watched or left alone."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.config = config = resolve(name, {"prompt": "a red snowman"})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        held = run_directory(folder / "run", to_json(config), inputs={}, command=())
        directory = stack.enter_context(held)
        self.session = Session(config, build(config), directory, None)
        board = directory.folder / "tensorboard"
        self.log = stack.enter_context(Log(board, config.steps, 0, quiet=True))
        step = self.session.begin_phase(self.session.components.phases[-1])
        self.watched_step = step

        def bare(state, prior_params, key):
            state, metrics = step.__wrapped__(state, prior_params, key)
            # XLA leaves out what nobody asks for
            return state, {"finite": metrics["finite"]}

        how = light_compilation(1)  # as the step's own
        self.bare_step = jax.jit(bare, donate_argnums=0, compiler_options=how)

    def bare(self, steps: int) -> None:
        """Takes steps of which nothing is said."""
        for _ in range(steps):
            self.session.advance(self.bare_step)
        self.session.unchecked.clear()

    def watched(self, steps: int) -> None:
        """Takes steps as a run does, by its own settings."""
        diagnostics = self.config.diagnostics
        for _ in range(steps):
            metrics = self.session.advance(self.watched_step)
            if self.session.step % diagnostics.nan_check_every == 0:
                self.session.check_finite()
            if self.session.step % diagnostics.every == 0:
                self.session.record_metrics(self.log, metrics)

    def variance(self) -> None:
        """Measures the gradient's variance once, and fetches the figures."""
        samples = self.config.diagnostics.variance_samples
        jax.device_get(self.session.measure_variance(samples))


def timed(call: Any, *arguments) -> dict[str, float]:
    """Seconds of a call, on the clock and of the processor.

    Until the device is done: a step that is still queued would be paid for by the next.
    """
    wall, processor = time.perf_counter(), time.process_time()
    call(*arguments)
    jax.block_until_ready(call.__self__.session.state)
    return {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }


def measure(run: Run) -> dict:
    """Visits every way in turn, `rounds` times."""
    enable_compile_cache()
    plan, load = run.plan, os.getloadavg()[0]
    with ExitStack() as stack:
        one = Watched(plan.config, stack)
        for way in (one.bare, one.watched):
            timed(way, plan.block)
        timed(one.variance)
        rounds = [
            {
                BARE: timed(one.bare, plan.block),
                WATCHED: timed(one.watched, plan.block),
                "variance": timed(one.variance),
            }
            for _ in range(plan.rounds)
        ]
    machine = described_machine(plan.rounds, load)
    return {"plan": plan._asdict(), "machine": machine, "rounds": rounds}


def extra(found: dict, clock: str) -> dict[str, tuple[float, float, float]]:
    """A way's extra time over the bare step's: (quartile, median, quartile)."""
    plan = found["plan"]
    share = plan["block"] / plan["variance_every"]
    bare = [one[BARE][clock] for one in found["rounds"]]
    watched = [one[WATCHED][clock] for one in found["rounds"]]
    measured = [
        w + share * one["variance"][clock] for w, one in zip(watched, found["rounds"])
    ]
    # the bare blocks on either side, so that a drift of the machine falls out
    beside = [statistics.mean(pair) for pair in zip(bare, [*bare[1:], bare[-1]])]
    result = {}
    for name, times in ((WATCHED, watched), (MEASURED, measured)):
        low, middle, high = statistics.quantiles(
            [t / b - 1 for t, b in zip(times, beside)], n=4
        )
        result[name] = (low, middle, high)
    return result


def table(run: Run) -> str:
    """Markdown: what is added to the bare step, by clock."""
    found = run.rows
    rows = []
    for clock in ("processor_seconds", "seconds"):
        for name, (low, middle, high) in extra(found, clock).items():
            said = f"{100 * middle:+.1f}% ({100 * low:+.1f} .. {100 * high:+.1f})"
            rows.append([name, clock.replace("_", " "), said])
    plan = found["plan"]
    head = (
        f"{machine_line(found['machine'])} `{plan['config']}`, {plan['block']} steps "
        f"a round and way, the variance every {plan['variance_every']} steps; medians "
        "and quartiles over the rounds."
    )
    heads = ["way", "clock", "more than the bare step"]
    return "\n".join([head, "", *markdown_table(heads, rows), ""])


def main(argv=None) -> None:
    run(argv, Experiment(HERE, __doc__, SMALL, FULL, measure=measure, table=table))


if __name__ == "__main__":
    main()
