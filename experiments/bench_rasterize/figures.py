"""The figures and the report of the rasteriser's benchmark."""

from __future__ import annotations

import statistics
from typing import Any

from scenes import BINNED, Scene, contributing, plan_of

from sdsjax.studies.benchmark import Candidate, machine_line, median_ratio
from sdsjax.studies.report import markdown_table

# Forward and backward together (spec of the renderer): flops and exponentials a pair.
FLOPS, EXPS = 83, 2


def scene_figures(candidates: dict[str, Candidate], scene: Scene, floor: float) -> dict:
    """What a pair of a scene costs. floor: nanoseconds a pair at least."""
    candidate, size = candidates[scene.label], plan_of(scene).grid.size
    pairs = int(candidate.result[0]) * size**2
    useful = float(contributing(scene))
    wall, processor = (
        statistics.median(times)
        for times in (candidate.seconds, candidate.processor_seconds)
    )
    picture = candidates[f"picture {scene.label}"]
    return {
        "scene": scene.label,
        "tile": size,
        "pairs": pairs,
        "share": useful / pairs,
        "ms": 1e3 * wall,
        "ns_pair": 1e9 * wall / pairs,
        "ns_pair_processor": 1e9 * processor / pairs,
        "ns_contributing_processor": 1e9 * processor / useful,
        "forward_share": processor_ratio(picture, candidate),
        "over_floor": 1e9 * processor / pairs / floor,
        "megabytes": candidate.bytes / 1e6,
    }


def processor_ratio(above: Candidate, below: Candidate) -> float:
    """The median over the rounds of one processor time over the other."""
    return median_ratio(above, below, "processor_seconds")


def figures(plan, candidates: dict[str, Candidate]) -> dict[str, Any]:
    """All that the report shows."""
    elements = 64 * (1 << 14)
    times = {
        name: statistics.median(candidates[name].processor_seconds)
        for name in ("flops", "exps", "binning")
    }
    flop, exp = times["flops"] / (elements * 64), times["exps"] / (elements * 8)
    floor = 1e9 * (FLOPS * flop + EXPS * exp)
    one = candidates[BINNED.label]
    return {
        "rows": [scene_figures(candidates, scene, floor) for scene in plan.scenes],
        "autodiff": {
            scene.label: {
                "times_slower": processor_ratio(
                    candidates[f"autodiff {scene.label}"], candidates[scene.label]
                ),
                "megabytes": candidates[f"autodiff {scene.label}"].bytes / 1e6,
            }
            for scene in plan.against
        },
        "views": {
            count: processor_ratio(candidates[BINNED._replace(views=count).label], one)
            / count
            for count in plan.views
        },
        "binning_ms": 1e3 * statistics.median(candidates["binning"].seconds),
        "binning_ms_processor": 1e3 * times["binning"],
        "flops_per_ns": 1e-9 / flop,
        "ns_exp": 1e9 * exp,
        "floor_ns_pair": floor,
    }


def scene_cells(r: dict) -> list[str]:
    """A scene's line of the table."""
    return [
        r["scene"],
        f"{r['tile']} px",
        f"{r['pairs'] / 1e6:.2f} M",
        f"{r['share']:.0%}",
        f"{r['ms']:.1f}",
        f"{r['ns_pair']:.2f}",
        f"{r['ns_pair_processor']:.2f}",
        f"{r['ns_contributing_processor']:.1f}",
        f"{r['forward_share']:.0%}",
        f"{r['over_floor']:.0f}",
        f"{r['megabytes']:.1f}",
    ]


def markdown(found: dict[str, Any]) -> str:
    """The report, as tables. found: `figures` and the machine's description."""
    heads = (
        "scene", "tile", "pairs", "contribute", "ms", "ns a pair",
        "processor ns a pair", "processor ns a contributing pair", "forward",
        "times the floor", "MB",
    )  # fmt: skip
    slower = [
        [label, f"{r['times_slower']:.1f}", f"{r['megabytes']:.0f}"]
        for label, r in found["autodiff"].items()
    ]
    batches = ", ".join(f"{k}: {v:.2f}" for k, v in found["views"].items())
    lines = [
        machine_line(found),
        "",
        *markdown_table(heads, map(scene_cells, found["rows"])),
        "",
        *markdown_table(
            ("against autodiff of the same tiles", "times slower", "MB"), slower
        ),
        "",
        f"Cost of a view in a batch, over one alone: {batches}.",
        f"Binning 5000 at 256x256: {found['binning_ms']:.2f} ms on the clock, "
        f"{found['binning_ms_processor']:.2f} ms of processor.",
        f"The machine: {found['flops_per_ns']:.1f} flop a ns of processor, "
        f"{found['ns_exp']:.2f} ns an exponential: {found['floor_ns_pair']:.2f} ns a "
        f"pair ({FLOPS} flop, {EXPS} exp) at least.",
    ]
    return "\n".join(lines) + "\n"
