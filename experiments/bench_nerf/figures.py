"""The figures and the report of the radiance field's benchmark."""

from __future__ import annotations

import statistics
from typing import Any

import scenes

from sdsjax.backend import target
from sdsjax.representations.radiance_field.ray_chunks import default_chunk_size
from sdsjax.studies.benchmark import machine_line, median_ratio
from sdsjax.studies.report import table_row


def encoding_figures(plan, found: dict, median: dict[str, float]) -> list[dict]:
    """Points a second of each grid, beside the machine's gather and scatter."""
    rows = []
    for grid in plan.grids:
        corners = 8 * scenes.GRIDS[grid]["levels"]
        for what, rate in (("forward", "gather"), ("gradient", "scatter")):
            ours, torch = found[f"{grid} {what}"], found.get(f"{grid} torch {what}")
            moved = plan.points * corners
            rows.append(
                {
                    "grid": grid,
                    "what": what,
                    "points_s": plan.points / median[f"{grid} {what}"],
                    "machine_ns_row": 1e9 * median[f"{grid} {rate}"] / moved,
                    "over_machine": median_ratio(ours, found[f"{grid} {rate}"]),
                    "torch_over_ours": median_ratio(torch, ours) if torch else None,
                }
            )
    return rows


def sampler_figures(plan, found: dict, median: dict[str, float]) -> list[dict]:
    """Rays a second of the field, and of what is changed in it."""
    size = plan.views[0][0]
    plain = found["coarse pass of the field gradient"]
    return [
        {
            "sampler": label,
            "rays_s": size**2 / median[f"{label} picture"],
            "rays_s_gradient": size**2 / median[f"{label} gradient"],
            "of_plain": median_ratio(found[f"{label} gradient"], plain),
            "megabytes": found[f"{label} gradient"].bytes / 1e6,
        }
        for label in scenes.SAMPLERS
    ]


def against_gaussians(plan, found: dict, median: dict[str, float]) -> list[dict]:
    """A view of the field and of Gaussians: time, memory, pictures a second."""
    rows = []
    for size, count in plan.views:
        field = found[f"nerf {size} gradient"]
        for name, label in (("nerf", "field"), ("gaussians", f"{count} Gaussians")):
            gradient = found[f"{name} {size} gradient"]
            rows.append(
                {
                    "size": size,
                    "what": label,
                    "ms": 1e3 * median[f"{name} {size} gradient"],
                    "frames_s": 1 / median[f"{name} {size} picture"],
                    "of_field": median_ratio(gradient, field),
                    "megabytes": gradient.bytes / 1e6,
                    "memory_of_field": gradient.bytes / field.bytes,
                }
            )
    return rows


def floor(plan, size: int, median: dict[str, float]) -> dict:
    """What a picture's gradient took, beside what its least work takes.

    At the machine's own rates, one after the other.
    """
    rows = plan.points * 8 * scenes.GRIDS["toybox"]["levels"]
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


def figures(plan, found: dict, memories: list[dict]) -> dict[str, Any]:
    """All that the report shows. found: candidates by name, after their rounds."""
    median = {name: statistics.median(c.seconds) for name, c in found.items()}
    return {
        "encoding": encoding_figures(plan, found, median),
        "samplers": sampler_figures(plan, found, median),
        "floor": [floor(plan, size, median) for size, _ in plan.views],
        "memory": memories,
        "against_gaussians": against_gaussians(plan, found, median),
        "chunk": default_chunk_size(target()),
    }


def encoding_cells(r: dict) -> list[str]:
    """A line of the table of encodings."""
    torch = r["torch_over_ours"]
    return [
        r["grid"],
        r["what"],
        f"{r['points_s'] / 1e6:.2f} M",
        f"{r['machine_ns_row']:.2f}",
        f"{r['over_machine']:.2f}",
        f"{torch:.1f}" if torch else "-",
    ]


def floor_cells(r: dict) -> list[str]:
    """A line of the table of floors."""
    return [
        f"{r['size']}x{r['size']}",
        f"{r['ms']:.0f}",
        f"{r['gather']:.1f}",
        f"{r['scatter']:.1f}",
        f"{r['matmul']:.1f} ({r['matmul_gflops']:.0f} GFLOP/s)",
        f"{r['over_floor']:.1f}",
    ]


TABLES = {
    "encoding": (
        "| encoding | | points/s | machine's gather or scatter, ns a row | "
        "times that of its corners | torch over ours |",
        encoding_cells,
    ),
    "samplers": (
        "| the field, and what is changed | rays/s | rays/s with gradient | "
        "time of the first | MB |",
        lambda r: [
            r["sampler"],
            f"{r['rays_s'] / 1e3:.1f} k",
            f"{r['rays_s_gradient'] / 1e3:.1f} k",
            f"{r['of_plain']:.2f}",
            f"{r['megabytes']:.0f}",
        ],
    ),
    "floor": (
        "| picture and gradient | ms | rows read at the gather's rate | rows added at "
        "the scatter's | networks at the matmul's | times their sum |",
        floor_cells,
    ),
    "memory": (
        "| picture and gradient | chunks of {chunk} rays, MB | all at once, MB |",
        lambda r: [
            f"{r['size']}x{r['size']}",
            f"{r['chunks']:.0f}",
            f"{r['whole']:.0f}",
        ],
    ),
    "against_gaussians": (
        "| a view | | ms with gradient | of the field's | MB | of the field's | "
        "pictures/s |",
        lambda r: [
            f"{r['size']}x{r['size']}",
            r["what"],
            f"{r['ms']:.0f}",
            f"{r['of_field']:.2f}",
            f"{r['megabytes']:.1f}",
            f"{r['memory_of_field']:.2f}",
            f"{r['frames_s']:.1f}",
        ],
    ),
}


def markdown(found: dict[str, Any]) -> str:
    """The report, as tables. found: `figures` and the machine's description."""
    lines = [machine_line(found)]
    for name, (head, cells) in TABLES.items():
        head = head.format(chunk=found["chunk"])
        ruler = "|---" * (head.count("|") - 1) + "|"
        lines += ["", head, ruler, *(table_row(cells(r)) for r in found[name])]
    return "\n".join(lines) + "\n"
