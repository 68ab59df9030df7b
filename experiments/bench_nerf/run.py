"""What a radiance field costs: encoding, rays, memory; against torch and Gaussians.

    python experiments/bench_nerf/run.py          # small grids and pictures
    python experiments/bench_nerf/run.py --full   # instant-ngp's grid, 512x512

Rounds visit every candidate once, so that other load falls on all of them alike; the
peer has a process of its own and is called between ours. Figures are medians over the
rounds, ratios medians of each round's ratio. Memory is what XLA allocates for the
temporaries of one compiled call. Writes results/<size>.json and results/<size>.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scenes
from figures import figures, markdown

from sdsjax.studies.benchmark import Candidate, described_machine, time_in_rounds
from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
WHOLE = 1 << 22  # rays: more than any picture has


class Plan(NamedTuple):
    """What is encoded, drawn and timed.

    grids; points encoded at once; pictures (side, Gaussians against the field); sides
    whose memory is asked; rounds; whether the torch peer is left out.
    """

    grids: tuple[str, ...]
    points: int
    views: tuple[tuple[int, int], ...]
    memory: tuple[int, ...]
    rounds: int = 9
    no_peer: bool = False


SMALL = Plan(("toybox",), 1 << 15, ((64, 2000),), (64, 512))
FULL = Plan(
    ("toybox", "instant-ngp"), 1 << 15, ((64, 2000), (256, 5000)), (64, 256, 512)
)
OPTIONS = {
    "rounds": Option("so many times each"),
    "no_peer": Option("without torch"),
}


class Peer:
    """The torch encoding of a grid, in its own process (peer.py)."""

    def __init__(self, grid: dict, count: int) -> None:
        sizes = [grid[k] for k in ("levels", "log2_size", "base", "growth")]
        command = [sys.executable, HERE / "peer.py", *map(str, (*sizes, count))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str):
        """Its answer; SystemExit where it has died (torch is not installed)."""
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise SystemExit(
                "the peer died: it needs torch (a CPU build), or give --no_peer"
            ) from None


class PeerCandidate:
    """One of the peer's calls, timed by the peer."""

    def __init__(self, peer: Peer, what: str) -> None:
        self.peer, self.what = peer, what
        self.seconds: list[float] = []
        peer.ask(what)

    def time(self) -> None:
        self.peer.ask(self.what)
        self.seconds.append(self.peer.ask(self.what))


def collect(plan: Plan) -> tuple[dict[str, Candidate | PeerCandidate], list[Peer]]:
    """Compiles everything, then times it in rounds: (candidates by name, peers)."""
    found: dict[str, Candidate | PeerCandidate] = {}
    peers = []

    def add(label: str, made: dict) -> None:
        for name, (function, arguments) in made.items():
            found[f"{label} {name}"] = Candidate(function, *arguments)

    for grid in plan.grids:
        named = scenes.encodings(grid, plan.points)
        add(grid, named | scenes.machine(grid, plan.points))
        if not plan.no_peer:
            peers.append(Peer(scenes.GRIDS[grid], plan.points))
            same_values(peers[-1], found[f"{grid} forward"])
            for what in ("forward", "gradient"):
                found[f"{grid} torch {what}"] = PeerCandidate(peers[-1], what)
    size = plan.views[0][0]
    for label, settings in scenes.SAMPLERS.items():
        add(label, scenes.view("nerf", size, **scenes.TOYBOX, **settings))
    for size, count in plan.views:
        add(f"nerf {size}", scenes.view("nerf", size, **scenes.TOYBOX))
        add(f"gaussians {size}", scenes.view("gaussians", size, count=count))
    time_in_rounds(found.values(), plan.rounds)
    return found, peers


def same_values(peer: Peer, ours) -> None:
    """Both encode alike: to float32's rounding of a position in the finest level."""
    np.testing.assert_allclose(peer.ask("value"), ours.result[:8], atol=2e-3)


def memory(sizes: tuple[int, ...]) -> list[dict]:
    """Temporaries of a picture's gradient in chunks and all at once; compiled alone."""
    rows = []
    for size in sizes:
        row = {"size": size}
        for label, chunk in (("chunks", 0), ("whole", WHOLE)):
            made = scenes.view("nerf", size, **scenes.TOYBOX, chunk=chunk)["gradient"]
            compiled = jax.jit(made[0]).lower(*made[1]).compile()
            row[label] = compiled.memory_analysis().temp_size_in_bytes / 1e6
        rows.append(row)
    return rows


def measure(run: Run) -> dict:
    """Everything, and the machine it was measured on."""
    plan, load = run.plan, os.getloadavg()[0]
    memories = memory(plan.memory)
    found, peers = collect(plan)
    for peer in peers:
        peer.process.stdin.close()
        peer.process.wait()
    return described_machine(plan.rounds, load) | figures(plan, found, memories)


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, measure=measure,
        table=lambda run: markdown(run.rows), options=OPTIONS,
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
