"""The benchmark of the radiance field: its peer's tables, its ratios, its report."""

import sys

import pytest
from experiment_folder import FOLDER, load


@pytest.fixture(scope="module")
def bench():
    """run.py with the modules beside it, which are forgotten afterwards."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(FOLDER / "bench_nerf"))
    others = {
        name: sys.modules.pop(name, None) for name in ("scenes", "peer", "figures")
    }
    yield load("bench_nerf")
    for name, module in others.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
    patch.undo()


@pytest.mark.parametrize("grid", ["toybox", "instant-ngp"])
def test_the_peer_has_the_tables_of_the_grid(bench, grid):
    tables, points = sys.modules["peer"].inputs(bench.scenes.GRIDS[grid], 5)
    rows = [level.rows for level in bench.scenes.grid_of(grid).levels]
    assert [table.shape for table in tables] == [(count, 2) for count in rows]
    assert points.shape == (5, 3)


class Timed:
    """A candidate that took these seconds."""

    def __init__(self, *seconds):
        self.seconds, self.bytes = list(seconds), 4e6


def test_figures_are_medians_and_ratios_of_one_round(bench):
    plan = bench.Plan(("toybox",), 64, ((8, 10),), (8,))
    # a machine that gets four times slower half way changes no ratio
    found = {
        f"toybox {name}": Timed(share, share, 4 * share)
        for name, share in (
            ("forward", 1.0), ("gather", 0.5), ("torch forward", 3.0),
            ("gradient", 2.0), ("scatter", 1.0), ("torch gradient", 8.0),
            ("matmul", 0.5),
        )
    }  # fmt: skip
    labels = [*bench.scenes.SAMPLERS, "nerf 8", "gaussians 8"]
    found |= {f"{name} picture": Timed(0.5, 0.5, 2.0) for name in labels}
    found |= {f"{name} gradient": Timed(1.0, 1.0, 4.0) for name in labels}
    result = bench.figures(plan, found, [{"size": 8, "chunks": 1.0, "whole": 2.0}])
    forward, gradient = result["encoding"]
    assert forward["points_s"] == 64
    assert (forward["over_machine"], forward["torch_over_ours"]) == (2, 3)
    assert (gradient["over_machine"], gradient["torch_over_ours"]) == (2, 4)
    assert forward["machine_ns_row"] == 1e9 * 0.5 / (64 * 64)
    assert {row["of_plain"] for row in result["samplers"]} == {1}
    assert result["samplers"][0]["rays_s"] == 128
    # 64 points are 4096 rows: .5 s of gathers, 1 s of scatters; by hand, 64 rays
    (least,) = result["floor"]
    assert least["gather"] == 1e3 * 0.5 * 64 * 40 / 64
    assert least["scatter"] == 1e3 * 1.0 * 64 * 40 / 64
    flops = 3 * 2 * 64 * 40 * (16 * 32 + 32 + 16 * 32 + 32 * 3)
    assert least["matmul"] == pytest.approx(1e3 * 0.5 * flops / (2 * 1024**3))
    assert least["over_floor"] == pytest.approx(1 / (20 + 40 + least["matmul"] / 1e3))
    machine = dict.fromkeys(("date", "cores", "load", "jax", "device", "rounds"), "x")
    text = bench.markdown(machine | result)
    assert "| toybox | gradient | 0.00 M |" in text
    assert all(f"| {label} |" in text for label in bench.scenes.SAMPLERS)
    assert "| 8x8 | 10 Gaussians | 1000 | 1.00 | 4.0 | 1.00 | 2.0 |" in text
