"""Our networks against torch diffusers and the last Flax diffusers; see README.md.

Every peer is a process of its own; the timed calls alternate between them, and what is
reported is the median of the ratios of neighbouring calls: a machine that is slow for a
while is slow for all. One JSON file a size in `results/`.

    python experiments/bench_networks/run.py                      # small, minutes
    python experiments/bench_networks/run.py --full               # SD 2.1's own sizes
    python experiments/bench_networks/run.py --flax_python PYTHON # with that peer too
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
JOBS = ("unet", "encoder")


class Plan(NamedTuple):
    """What is timed, and against whom.

    sizes of the networks; jobs; timed calls; the interpreter of the Flax peer, "" for
    none; whether torch is left out.
    """

    size: str
    jobs: tuple[str, ...] = JOBS
    repeats: int = 7
    flax_python: str = ""
    no_torch: bool = False


SMALL, FULL = Plan("small"), Plan("full")
OPTIONS = {
    "jobs": Option("some of the jobs", JOBS),
    "repeats": Option("timed calls of each"),
    "flax_python": Option("interpreter that has diffusers 0.39"),
    "no_torch": Option("leave torch out"),
}


class Peer:
    """A worker process: `time()` is one call's seconds and the peak memory so far."""

    def __init__(self, name: str, python: str, job: str, size: str):
        self.name = name
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parents[1]), "HF_HUB_OFFLINE": "1",
            "DIFFUSERS_VERBOSITY": "error",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), name, job, size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.flops = self._read()["flops"]

    def _read(self) -> dict:
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name}: ended before it answered; see its error above")

    def time(self) -> dict:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(times: dict[str, list[float]]) -> dict[str, dict]:
    """Medians, and the median (and range) of the ratio ours / peer, call by call."""
    rows = {}
    for name, own in times.items():
        ratios = [mine / theirs for mine, theirs in zip(times["ours"], own)]
        rows[name] = {
            "seconds": statistics.median(own),
            "ours_over_it": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
    return rows


def measure(job: str, size: str, pythons: dict[str, str], repeats: int) -> dict:
    """All peers of one job, alternating."""
    peers = [Peer(name, python, job, size) for name, python in pythons.items()]
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    peaks: dict[str, float] = {}
    for _ in range(repeats):
        for peer in peers:
            answer = peer.time()
            times[peer.name].append(answer["seconds"])
            peaks[peer.name] = answer["peak_gib"]
    flops = {peer.name: peer.flops for peer in peers}
    for peer in peers:
        peer.close()
    rows = compare(times)
    rate = flops["machine"] / rows["machine"]["seconds"]
    for name, row in rows.items():
        # the work is the same for all: ours is counted, torch's cannot be
        work = flops["machine"] if name == "machine" else flops["ours"]
        row["gflops"] = work / row["seconds"] / 1e9
        row["share_of_machine"] = work / row["seconds"] / rate
        row["peak_gib"] = peaks[name]
    return {"flops": flops["ours"], "peers": rows}


def table(jobs: dict[str, dict]) -> str:
    """Markdown: a row a job and peer."""
    heads = (
        "job", "peer", "s", "ours / peer (range)", "GFLOP/s", "of machine", "peak GiB"
    )  # fmt: skip
    rows = []
    for job, result in jobs.items():
        for name, row in result["peers"].items():
            low, high = row["ratio_range"]
            cells = (
                job,
                name,
                f"{row['seconds']:.3f}",
                f"{row['ours_over_it']:.2f} ({low:.2f}-{high:.2f})",
                f"{row['gflops']:.0f}",
                f"{row['share_of_machine']:.2f}",
                f"{row['peak_gib']:.1f}",
            )
            rows.append(cells)
    return "\n".join(markdown_table(heads, rows)) + "\n"


def measure_all(run: Run) -> dict:
    """Every job with its peers, and the machine they were measured on."""
    plan = run.plan
    pythons = {"ours": sys.executable, "machine": sys.executable}
    if not plan.no_torch:
        pythons["torch"] = sys.executable
    if plan.flax_python:
        pythons["flax"] = plan.flax_python
    jobs = {job: measure(job, plan.size, pythons, plan.repeats) for job in plan.jobs}
    return {"cores": os.cpu_count(), "machine": platform.machine(), "jobs": jobs}


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, measure=measure_all, options=OPTIONS,
        table=lambda run: table(run.rows["jobs"]),
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
