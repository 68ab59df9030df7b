"""Measurement 6: the hash grid's encoding and a field's view, with their gradients."""

from __future__ import annotations

from timing import compared, neighbour, peak_mib

scenes = neighbour("bench_nerf", "scenes")
GRIDS = {"small": ("toybox",), "full": ("toybox", "instant-ngp")}
POINTS = {"small": 1 << 12, "full": 1 << 20}
SIDES = {"small": (32,), "full": (64, 256)}


def measure(size: str, say) -> None:
    """Says seconds by grid, beside a gather and a scatter of its rows, then views."""
    rows = {}
    for grid in GRIDS[size]:
        calls = scenes.encodings(grid, POINTS[size])
        calls |= scenes.machine(grid, POINTS[size])
        rows[f"{grid}, {POINTS[size]} points"] = compared(calls)
        say(rows=rows)
    for side in SIDES[size]:
        rows[f"view of {side}x{side}"] = compared(
            scenes.view("nerf", side, **scenes.TOYBOX)
        )
        say(rows=rows, peak_mib=peak_mib())
