"""What a radiance field costs: encoding, rays, memory; against torch and Gaussians.

    python experiments/bench_nerf/run.py          # small grids and pictures
    python experiments/bench_nerf/run.py --full   # instant-ngp's grid, 512x512

Rounds visit every candidate once, so that other load falls on all of them alike; the
peer has a process of its own and is called between ours. Figures are medians over the
rounds, ratios medians of each round's ratio. Memory is what XLA allocates for the
temporaries of one compiled call. Writes results/<size>.json and results/<size>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np
import scenes

from sdsjax.representations.radiance_field.ray_chunks import default_chunk_size

HERE = Path(__file__).resolve().parent
WHOLE = 1 << 22  # rays: more than any picture has
SMALL = {
    "grids": ["toybox"], "points": 1 << 15, "views": [(64, 2000)], "memory": [64, 512],
}  # fmt: skip
FULL = {
    "grids": ["toybox", "instant-ngp"], "points": 1 << 15,
    "views": [(64, 2000), (256, 5000)], "memory": [64, 256, 512],
}  # fmt: skip


class Candidate:
    """A compiled call, what it took each time (seconds) and the memory it needs."""

    def __init__(self, function: Callable, arguments: tuple) -> None:
        compiled = jax.jit(function).lower(*arguments).compile()
        self.call = lambda: jax.block_until_ready(compiled(*arguments))
        self.bytes = compiled.memory_analysis().temp_size_in_bytes
        self.seconds: list[float] = []
        self.result = self.call()

    def time(self) -> None:
        self.call()  # whoever went before has left nothing of this in the caches
        start = time.perf_counter()
        self.call()
        self.seconds.append(time.perf_counter() - start)


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


def collect(plan: dict, rounds: int, with_peer: bool):
    """(candidates by name, peers): everything compiled, then timed in rounds."""
    found: dict[str, Candidate | PeerCandidate] = {}
    peers = []
    for grid in plan["grids"]:
        named = scenes.encodings(grid, plan["points"])
        named |= scenes.machine(grid, plan["points"])
        found |= {f"{grid} {k}": Candidate(*made) for k, made in named.items()}
        if with_peer:
            peers.append(Peer(scenes.GRIDS[grid], plan["points"]))
            same_values(peers[-1], found[f"{grid} forward"])
            for what in ("forward", "gradient"):
                found[f"{grid} torch {what}"] = PeerCandidate(peers[-1], what)
    size = plan["views"][0][0]
    for label, settings in scenes.SAMPLERS.items():
        made = scenes.view("nerf", size, **scenes.TOYBOX, **settings)
        found |= {f"{label} {k}": Candidate(*pair) for k, pair in made.items()}
    for size, count in plan["views"]:
        made = scenes.view("nerf", size, **scenes.TOYBOX)
        found |= {f"nerf {size} {k}": Candidate(*pair) for k, pair in made.items()}
        made = scenes.view("gaussians", size, count=count)
        found |= {f"gaussians {size} {k}": Candidate(*v) for k, v in made.items()}
    for _ in range(rounds):
        for candidate in found.values():
            candidate.time()
    return found, peers


def same_values(peer: Peer, ours) -> None:
    """Both encode alike: to float32's rounding of a position in the finest level."""
    np.testing.assert_allclose(peer.ask("value"), ours.result[:8], atol=2e-3)


def memory(sizes: list[int]) -> list[dict]:
    """Temporaries of a picture's gradient, in chunks and all rays at once; compiled,
    not run."""
    rows = []
    for size in sizes:
        row = {"size": size}
        for label, chunk in (("chunks", 0), ("whole", WHOLE)):
            made = scenes.view("nerf", size, **scenes.TOYBOX, chunk=chunk)["gradient"]
            compiled = jax.jit(made[0]).lower(*made[1]).compile()
            row[label] = compiled.memory_analysis().temp_size_in_bytes / 1e6
        rows.append(row)
    return rows


def ratio(above, below) -> float:
    """Median over the rounds of one over the other."""
    return statistics.median(a / b for a, b in zip(above.seconds, below.seconds))


def figures(plan: dict, found: dict, memories: list[dict]) -> dict:
    """All that the report shows."""
    median = {name: statistics.median(c.seconds) for name, c in found.items()}
    points, encoding = plan["points"], []
    for grid in plan["grids"]:
        corners = 8 * scenes.GRIDS[grid]["levels"]
        for what, rate in (("forward", "gather"), ("gradient", "scatter")):
            ours, torch = found[f"{grid} {what}"], found.get(f"{grid} torch {what}")
            encoding.append(
                {
                    "grid": grid,
                    "what": what,
                    "points_s": points / median[f"{grid} {what}"],
                    "machine_ns_row": 1e9
                    * median[f"{grid} {rate}"]
                    / (points * corners),
                    "over_machine": ratio(ours, found[f"{grid} {rate}"]),
                    "torch_over_ours": ratio(torch, ours) if torch else None,
                }
            )
    size = plan["views"][0][0]
    plain = found["coarse pass of the field gradient"]
    samplers = [
        {
            "sampler": label,
            "rays_s": size**2 / median[f"{label} picture"],
            "rays_s_gradient": size**2 / median[f"{label} gradient"],
            "of_plain": ratio(found[f"{label} gradient"], plain),
            "megabytes": found[f"{label} gradient"].bytes / 1e6,
        }
        for label in scenes.SAMPLERS
    ]
    against = []
    for size, count in plan["views"]:
        for name, label in (
            ("nerf", "field"),
            ("gaussians", f"{count} Gaussians"),
        ):
            gradient, field = (
                found[f"{name} {size} gradient"],
                found[f"nerf {size} gradient"],
            )
            against.append(
                {
                    "size": size,
                    "what": label,
                    "ms": 1e3 * median[f"{name} {size} gradient"],
                    "frames_s": 1 / median[f"{name} {size} picture"],
                    "of_field": ratio(gradient, field),
                    "megabytes": gradient.bytes / 1e6,
                    "memory_of_field": gradient.bytes / field.bytes,
                }
            )
    return {
        "encoding": encoding,
        "samplers": samplers,
        "floor": [floor(plan, size, median) for size, _ in plan["views"]],
        "memory": memories,
        "against_gaussians": against,
        "chunk": default_chunk_size(),
    }


def floor(plan: dict, size: int, median: dict[str, float]) -> dict:
    """What the least work of a picture's gradient takes at the machine's own rates,
    one after the other, beside what it took."""
    rows = plan["points"] * 8 * scenes.GRIDS["toybox"]["levels"]
    work, rate = scenes.least_work(size), 2 * scenes.SIDE**3 / median["toybox matmul"]
    shares = {
        "gather": work.read / rows * median["toybox gather"],
        "scatter": work.added / rows * median["toybox scatter"],
        "matmul": work.flops / rate,
    }
    took = median[f"nerf {size} gradient"]
    return {
        "size": size,
        "ms": 1e3 * took,
        **{name: 1e3 * seconds for name, seconds in shares.items()},
        "matmul_gflops": 1e-9 * rate,
        "over_floor": took / sum(shares.values()),
    }


def _table(head: str, rows: list[str]) -> list[str]:
    return ["", head, "|---" * (head.count("|") - 1) + "|", *rows]


def markdown(found: dict, machine: dict) -> str:
    """The report, as tables."""
    lines = [
        f"{machine['date']}, {machine['cores']} cores, load {machine['load']}, jax "
        f"{machine['jax']}, {machine['device']}, {machine['rounds']} rounds."
    ]
    rows = []
    for r in found["encoding"]:
        torch = r["torch_over_ours"]
        peer = f"{torch:.1f}" if torch else "-"
        rows.append(
            f"| {r['grid']} | {r['what']} | {r['points_s'] / 1e6:.2f} M | "
            f"{r['machine_ns_row']:.2f} | {r['over_machine']:.2f} | {peer} |"
        )
    lines += _table(
        "| encoding | | points/s | machine's gather or scatter, ns a row | "
        "times that of its corners | torch over ours |",
        rows,
    )
    lines += _table(
        "| the field, and what is changed | rays/s | rays/s with gradient | "
        "time of the first | MB |",
        [
            f"| {r['sampler']} | {r['rays_s'] / 1e3:.1f} k | "
            f"{r['rays_s_gradient'] / 1e3:.1f} k | {r['of_plain']:.2f} | "
            f"{r['megabytes']:.0f} |"
            for r in found["samplers"]
        ],
    )
    lines += _table(
        "| picture and gradient | ms | rows read at the gather's rate | rows added at "
        "the scatter's | networks at the matmul's | times their sum |",
        [
            f"| {r['size']}x{r['size']} | {r['ms']:.0f} | {r['gather']:.1f} | "
            f"{r['scatter']:.1f} | {r['matmul']:.1f} ({r['matmul_gflops']:.0f} "
            f"GFLOP/s) | {r['over_floor']:.1f} |"
            for r in found["floor"]
        ],
    )
    lines += _table(
        f"| picture and gradient | chunks of {found['chunk']} rays, MB | "
        "all at once, MB |",
        [
            f"| {r['size']}x{r['size']} | {r['chunks']:.0f} | {r['whole']:.0f} |"
            for r in found["memory"]
        ],
    )
    lines += _table(
        "| a view | | ms with gradient | of the field's | MB | of the field's | "
        "pictures/s |",
        [
            f"| {r['size']}x{r['size']} | {r['what']} | {r['ms']:.0f} | "
            f"{r['of_field']:.2f} | {r['megabytes']:.1f} | "
            f"{r['memory_of_field']:.2f} | {r['frames_s']:.1f} |"
            for r in found["against_gaussians"]
        ],
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="large grids and pictures")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no_peer", action="store_true", help="without torch")
    options = parser.parse_args()
    plan, load = FULL if options.full else SMALL, os.getloadavg()[0]
    memories = memory(plan["memory"])
    found, peers = collect(plan, options.rounds, not options.no_peer)
    for peer in peers:
        peer.process.stdin.close()
        peer.process.wait()
    result = figures(plan, found, memories)
    machine = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "rounds": options.rounds,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    name = "full" if options.full else "small"
    (folder / f"{name}.json").write_text(json.dumps({**machine, **result}, indent=1))
    text = markdown(result, machine)
    (folder / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
