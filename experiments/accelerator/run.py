"""What this project does on an accelerator, measured in one short visit; see README.md.

Eight measurements in the order of what is missed most, each in a process of its own
(a device's memory is free again, and what fails takes nothing else along), each written
before the next begins:

    python experiments/accelerator/run.py                       # small: a rehearsal
    python experiments/accelerator/run.py --full --minutes 8    # on the machine lent

`--minutes` begins no measurement later; the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sections import markdown

from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
MEASUREMENTS = (
    "machine", "default_job", "splatting", "networks", "whole_step", "fields",
    "training", "assets",
)  # fmt: skip


class Plan(NamedTuple):
    """What is measured: names, their size, the seconds that one of them may take."""

    size: str
    only: tuple[str, ...] = MEASUREMENTS
    seconds: float = 240.0


def jobs(run: Run) -> Iterator[tuple[str, str]]:
    """The measurements, in order."""
    for name in MEASUREMENTS:
        if name in run.plan.only:
            yield name, name


def worker(run: Run):
    """Measures one in a process of its own; what it says on stderr is shown."""

    def perform(name: str) -> dict:
        begun = time.monotonic()
        command = [sys.executable, str(HERE / "measure.py"), name, run.plan.size]
        found = {"error": f"took longer than {run.plan.seconds:g} s"}
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, timeout=run.plan.seconds
            )
            lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
            found = json.loads(lines[-1]) if lines else {}
            if done.returncode:
                found.setdefault("error", f"ended with status {done.returncode}")
        except subprocess.TimeoutExpired as error:
            # what was measured until then counts
            text = error.stdout or b""
            lines = [x for x in text.decode().splitlines() if x.startswith("{")]
            found = (json.loads(lines[-1]) if lines else {}) | found
        row = {"name": name, "size": run.plan.size}
        return row | {"wall_seconds": time.monotonic() - begun, "found": found}

    return perform


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, Plan("small"), Plan("full"), jobs=jobs, worker=worker,
        table=lambda run: markdown(run.rows),
        options={
            "only": Option("some of the measurements", MEASUREMENTS),
            "seconds": Option("that one measurement may take"),
        },
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
