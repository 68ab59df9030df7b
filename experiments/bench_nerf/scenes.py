"""What bench_nerf times: encodings, the machine's own rates, views and their gradients.

A view is one of a toybox orbit; the field is a ball of radius 0.5 (its blob, before any
training), which fills an eighth of the box's cells; Gaussians: those of a run's start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from peer import inputs

from sdsjax.cameras import orbit_camera
from sdsjax.representations import REPRESENTATIONS
from sdsjax.representations.radiance_field import hash_grid

KEY = jax.random.key(0)
# The toybox config's grid, and instant-ngp's (arXiv 2201.05989).
GRIDS = {
    "toybox": {"levels": 8, "log2_size": 14, "base": 4, "growth": 1.5},
    "instant-ngp": {"levels": 16, "log2_size": 19, "base": 16, "growth": 1.4472692},
}
# configs/nerf.py:toybox, and the options that are to make it cheaper
TOYBOX = {**GRIDS["toybox"], "hidden": 32, "coarse": 24, "fine": 16}
SAMPLERS = {
    "coarse pass of the field": {},
    "proposal": {"proposal": 4, "losses": {"interlevel": 1.0}},
    "occupancy, a mask": {"occupancy": 32},
    "occupancy, room 0.4": {"occupancy": 32, "room": 0.4},
    "normals of all points": {"losses": {"orientation": 1.0}},
    "normals by differences": {
        "losses": {"orientation": 1.0}, "normals": "finite_difference",
    },
}  # fmt: skip
# side of the square matrices whose product is the machine's rate
SIDE = 1024


def grid_of(name: str) -> hash_grid.HashGrid:
    """A grid of GRIDS."""
    return hash_grid.make_grid(**GRIDS[name])


def encodings(name: str, count: int) -> dict[str, tuple[Callable, tuple]]:
    """Forward, and the gradient of the tables, at fixed points, as rendering asks."""
    grid, (tables, points) = grid_of(name), inputs(GRIDS[name], count)
    tables, points = tuple(map(jnp.asarray, tables)), jnp.asarray(points)

    def forward(tables, x):
        return hash_grid.encode(tables, x, grid)

    def gradient(tables, x):
        return jax.grad(lambda tables: jnp.sum(forward(tables, x)))(tables)

    return {
        "forward": (forward, (tables, points)),
        "gradient": (gradient, (tables, points)),
    }


def machine(name: str, count: int) -> dict[str, tuple[Callable, tuple]]:
    """The machine's own gather, scatter and matmul.

    Of as many rows as the encoding has corners, at random places, known beforehand, of
    tables of its sizes.
    """
    levels = grid_of(name).levels
    tables = [jax.random.uniform(KEY, (level.rows, 2)) for level in levels]
    places = [jax.random.randint(KEY, (8, count), 0, level.rows) for level in levels]
    square = jax.random.normal(KEY, (SIDE, SIDE))

    def gather(tables, places):
        # Summed corner by corner, so that nothing but the result is written: the
        # fastest of six forms that were tried (numpy's take: twice as long).
        return [
            sum(table.at[index].get(mode="promise_in_bounds") for index in at)
            for table, at in zip(tables, places)
        ]

    def scatter(tables, places):
        return [
            jnp.zeros_like(table)
            .at[at.reshape(-1)]
            .add(jnp.ones((at.size, 2)), mode="promise_in_bounds")
            for table, at in zip(tables, places)
        ]

    return {
        "gather": (gather, (tables, places)),
        "scatter": (scatter, (tables, places)),
        "matmul": (jnp.matmul, (square, square)),
    }


class Work(NamedTuple):
    """What a picture with its gradient cannot do without.

    Rows of tables read and added to, and floating-point operations of the networks.
    """

    read: float
    added: float
    flops: float


def least_work(size: int) -> Work:
    """The least work of the toybox field, size x size, if nothing were computed twice.

    Not the coarse points, which are seen as well, nor a chunk's forward pass.
    """
    points = size**2 * (TOYBOX["coarse"] + TOYBOX["fine"])
    width, hidden = 2 * TOYBOX["levels"], TOYBOX["hidden"]
    rows = points * 8 * TOYBOX["levels"]
    multiplied = hidden * (width + 1) + hidden * (width + 3)
    # a multiplication and an addition; the gradient costs two forward passes more
    return Work(read=rows, added=rows, flops=6.0 * points * multiplied)


def view(representation: str, size: int, **settings) -> dict[str, tuple]:
    """A picture of size x size, and the gradient of a functional of it.

    With respect to all parameters, as a training step has them (a key, a coloured
    background).
    """
    made = REPRESENTATIONS[representation](**settings)
    params, state = jax.jit(made.init)(KEY)
    camera = orbit_camera(40.0, 20.0, 3.1, width=size, height=size)
    pull = jax.random.normal(KEY, (size, size, 3))

    def picture(params, state, camera):
        return made.render(params, state, camera, None).rgb

    def gradient(params, state, camera):
        def total(params):
            drawn = made.render(params, state, camera, KEY)
            penalty, _ = made.regularize(params, state, drawn, 0)
            return jnp.sum(pull * drawn.rgb) + penalty

        return jax.grad(total, allow_int=True)(params)

    arguments = params, state, camera
    return {"picture": (picture, arguments), "gradient": (gradient, arguments)}
