"""What a pixel-Gaussian pair costs, against autodiff and against the machine.

    python experiments/bench_rasterize/run.py          # 5k at 256x256
    python experiments/bench_rasterize/run.py --full   # 20k, 100k at 512x512, 8 views

Everything is timed in one process, in rounds that visit every candidate once; figures
are medians over the rounds, ratios are medians of each round's ratio. Beside the time
on the clock stands the processor time of this process, which other processes' load
does not lengthen. Writes results/<size>.json and results/<size>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
from scenes import (
    Scene,
    autodiff,
    binning_of,
    cameras_of,
    contributing,
    gaussians_of,
    gradient_of,
    longest_list,
    picture_of,
    plan_of,
    splats_of,
    whole_plan,
)

HERE = Path(__file__).resolve().parent
# Forward and backward together (spec of the renderer): flops and exponentials a pair.
FLOPS, EXPS = 83, 2
BINNED = Scene(5000, 256)
SMALL = ((BINNED,), (BINNED,), (1, 2, 4), 64)
FULL = (
    (BINNED, Scene(20_000, 256), Scene(100_000, 512)),
    (BINNED, Scene(20_000, 256)),
    (1, 2, 4, 8),
    128,
)


class Candidate:
    """A compiled call, what it took each time (seconds) and the buffers it needs."""

    def __init__(self, function: Callable, *arguments) -> None:
        compiled = jax.jit(function).lower(*arguments).compile()
        self.call = lambda: jax.block_until_ready(compiled(*arguments))
        memory = compiled.memory_analysis()
        self.bytes = getattr(memory, "temp_size_in_bytes", 0)
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.result = self.call()

    def time(self) -> None:
        self.call()  # as in training: what ran before it has left no caches cold
        wall, processor = time.perf_counter(), time.process_time()
        self.call()
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)


def floor_candidates(size: int) -> dict[str, Candidate]:
    """Two kernels that stay in cache: one of multiply-adds, one of exponentials."""
    x = jnp.linspace(0.0, 1e-3, 1 << size)

    def flops(x):
        def body(_, x):
            for _ in range(32):
                x = x * 0.999 + 1e-6
            return x

        return jax.lax.fori_loop(0, 64, body, x)

    def exps(x):
        def body(_, x):
            for _ in range(8):
                x = jnp.exp(-x)
            return x

        return jax.lax.fori_loop(0, 64, body, x)

    return {"flops": Candidate(flops, x), "exps": Candidate(exps, x)}


def collect(plan, rounds: int) -> dict[str, Candidate]:
    """Compiles everything, then times it in rounds."""
    scenes, against, views, _ = plan
    candidates: dict[str, Candidate] = {}
    for scene in scenes:
        arguments = gaussians_of(scene), cameras_of(scene)
        candidates[f"picture {scene.label}"] = Candidate(picture_of(scene), *arguments)
        candidates[scene.label] = Candidate(gradient_of(scene), *arguments)
    for count in views[1:]:
        scene = BINNED._replace(views=count)
        candidates[scene.label] = Candidate(
            gradient_of(scene), gaussians_of(scene), cameras_of(scene)
        )
    candidates["binning"] = Candidate(binning_of(BINNED), splats_of(BINNED))
    candidates |= floor_candidates(14)
    heavy: dict[str, Candidate] = {}
    for scene in against:
        arguments = gaussians_of(scene), cameras_of(scene)
        accumulate = autodiff(longest_list(scene), whole_plan(scene).capacity)
        heavy[f"autodiff {scene.label}"] = Candidate(
            gradient_of(scene, accumulate), *arguments
        )
    # In rounds of their own: what they free, gigabytes, slows whoever comes next.
    for group in (candidates, heavy):
        for _ in range(rounds):
            for candidate in group.values():
                candidate.time()
    return candidates | heavy


def ratio(above: Candidate, below: Candidate, clock: str = "processor") -> float:
    """Median over the rounds of one over the other."""
    pairs = zip(getattr(above, clock), getattr(below, clock))
    return statistics.median(a / b for a, b in pairs)


def figures(plan, candidates: dict[str, Candidate]) -> dict:
    """All that the report shows."""
    scenes, against, views, _ = plan
    elements = 64 * (1 << 14)
    flop = statistics.median(candidates["flops"].processor) / (elements * 64)
    exp = statistics.median(candidates["exps"].processor) / (elements * 8)
    floor = 1e9 * (FLOPS * flop + EXPS * exp)
    rows = []
    for scene in scenes:
        candidate, size = candidates[scene.label], plan_of(scene).grid.size
        pairs = int(candidate.result[0]) * size**2
        useful = float(contributing(scene))
        wall, processor = (
            statistics.median(a) for a in (candidate.wall, candidate.processor)
        )
        picture = candidates[f"picture {scene.label}"]
        rows.append(
            {
                "scene": scene.label,
                "tile": size,
                "pairs": pairs,
                "share": useful / pairs,
                "ms": 1e3 * wall,
                "ns_pair": 1e9 * wall / pairs,
                "ns_pair_processor": 1e9 * processor / pairs,
                "ns_contributing_processor": 1e9 * processor / useful,
                "forward_share": ratio(picture, candidate),
                "over_floor": 1e9 * processor / pairs / floor,
                "megabytes": candidate.bytes / 1e6,
            }
        )
    one = candidates[BINNED.label]
    return {
        "rows": rows,
        "autodiff": {
            scene.label: {
                "times_slower": ratio(
                    candidates[f"autodiff {scene.label}"], candidates[scene.label]
                ),
                "megabytes": candidates[f"autodiff {scene.label}"].bytes / 1e6,
            }
            for scene in against
        },
        "views": {
            count: ratio(candidates[BINNED._replace(views=count).label], one) / count
            for count in views
        },
        "binning_ms": 1e3 * statistics.median(candidates["binning"].wall),
        "binning_ms_processor": 1e3
        * statistics.median(candidates["binning"].processor),
        "flops_per_ns": 1e-9 / flop,
        "ns_exp": 1e9 * exp,
        "floor_ns_pair": floor,
    }


def markdown(found: dict, machine: dict) -> str:
    """The report, as tables."""
    head = (
        "| scene | tile | pairs | contribute | ms | ns a pair | processor ns a pair | "
        "processor ns a contributing pair | forward | times the floor | MB |"
    )
    lines = [
        f"{machine['date']}, {machine['cores']} cores, load {machine['load']}, jax "
        f"{machine['jax']}, {machine['device']}, {machine['rounds']} rounds.",
        "",
        head,
        "|---" * 11 + "|",
    ]
    for r in found["rows"]:
        lines.append(
            f"| {r['scene']} | {r['tile']} px | {r['pairs'] / 1e6:.2f} M | "
            f"{r['share']:.0%} | {r['ms']:.1f} | {r['ns_pair']:.2f} | "
            f"{r['ns_pair_processor']:.2f} | {r['ns_contributing_processor']:.1f} | "
            f"{r['forward_share']:.0%} | {r['over_floor']:.0f} | "
            f"{r['megabytes']:.1f} |"
        )
    lines += ["", "| against autodiff of the same tiles | times slower | MB |"]
    lines += ["|---|---|---|"]
    for label, r in found["autodiff"].items():
        lines.append(f"| {label} | {r['times_slower']:.1f} | {r['megabytes']:.0f} |")
    batches = ", ".join(f"{k}: {v:.2f}" for k, v in found["views"].items())
    lines += [
        "",
        f"Cost of a view in a batch, over one alone: {batches}.",
        f"Binning 5000 at 256x256: {found['binning_ms']:.2f} ms on the clock, "
        f"{found['binning_ms_processor']:.2f} ms of processor.",
        f"The machine: {found['flops_per_ns']:.1f} flop a ns of processor, "
        f"{found['ns_exp']:.2f} ns an exponential: {found['floor_ns_pair']:.2f} ns a "
        f"pair ({FLOPS} flop, {EXPS} exp) at least.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all scenes and batches")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    plan = FULL if options.full else SMALL
    load = os.getloadavg()[0]
    found = figures(plan, collect(plan, options.rounds))
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
    (folder / f"{name}.json").write_text(json.dumps({**machine, **found}, indent=1))
    text = markdown(found, machine)
    (folder / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
