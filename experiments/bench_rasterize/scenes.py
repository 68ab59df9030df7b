"""What bench_rasterize draws, and what it compares with.

Notation: a pair is a pixel and a Gaussian that its tile lists; it contributes where
alpha >= 1/255. A scene is an object in the middle of the picture: n Gaussians, half of
them on a shell of radius 0.6, half inside, standard deviation half their spacing.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.cameras import Camera, OrbitRange, random_orbits
from sdsjax.render.splatting import binning, composite, rasterize
from sdsjax.render.splatting.project import Gaussians, project
from sdsjax.representations.gaussians import initialization


class Scene(NamedTuple):
    """count Gaussians in a picture of size x size pixels, seen by `views` cameras."""

    count: int
    size: int
    views: int = 1

    @property
    def label(self) -> str:
        views = f", {self.views} views" if self.views > 1 else ""
        return f"{self.count} Gaussians, {self.size}x{self.size}{views}"


BINNED = Scene(5000, 256)  # the scene of binning and of batches


def gaussians_of(scene: Scene) -> Gaussians:
    """The Gaussians of a scene's object."""
    n = scene.count
    keys = jax.random.split(jax.random.key(n), 6)
    half = n // 2
    means = jnp.concatenate(
        [
            initialization.random_cloud(keys[0], "shell", half, 0.6),
            initialization.random_cloud(keys[1], "ball", n - half, 0.6),
        ]
    )
    scale = 0.5 * initialization.mean_spacing("ball", n, 0.6)
    normal = jax.random.normal
    return Gaussians(
        means=means,
        log_scales=jnp.log(scale) + 0.4 * normal(keys[2], (n, 3)),
        quats=normal(keys[3], (n, 4)),
        opacity_logits=1.5 * normal(keys[4], (n,)),
        sh=0.5 * normal(keys[5], (n, 1, 3)),
        alive=jnp.ones(n, bool),
    )


def cameras_of(scene: Scene) -> Camera:
    """`views` cameras around it, as in training."""
    return random_orbits(
        jax.random.key(1),
        scene.views,
        OrbitRange(),
        width=scene.size,
        height=scene.size,
    )


def plan_of(scene: Scene) -> composite.RasterPlan:
    """The plan that `rasterize` makes by itself."""
    return rasterize.default_plan(scene.count, scene.size, scene.size)


def whole_plan(scene: Scene) -> composite.RasterPlan:
    """The same with a buffer that holds all pairs of a view: one slab."""
    plan, total = plan_of(scene), 1
    for i in range(scene.views):
        camera = jax.tree.map(lambda a, i=i: a[i], cameras_of(scene))
        splats = jax.tree.map(lambda a: a[None], project(gaussians_of(scene), camera))
        total = max(total, int(jnp.sum(binning.footprints(splats, plan.grid).count)))
    return plan._replace(capacity=1 << (total - 1).bit_length())


def gradient_of(scene: Scene, accumulate=None):
    """Makes (gaussians, cameras) -> (n_isects, gradient of a fixed functional).

    Of rgb, opacity and depth; accumulate: what takes the place of rasterize.accumulate.
    """
    pull = jax.random.normal(jax.random.key(2), (scene.size, scene.size, 5))

    def value(learnt, alive, cameras):
        def one(camera):
            gaussians = Gaussians(*learnt, alive=alive)
            drawn = rasterize.rasterize(gaussians, camera, background=jnp.ones(3))
            picture = jnp.concatenate(
                [drawn.rgb, drawn.opacity[..., None], drawn.depth[..., None]], axis=-1
            )
            return jnp.sum(picture * pull), drawn.aux.get("n_isects", 0)

        if scene.views == 1:  # under vmap a branch not taken is computed as well
            return one(jax.tree.map(lambda a: a[0], cameras))
        values, isects = jax.vmap(one)(cameras)
        return jnp.sum(values), jnp.sum(isects)

    def run(gaussians, cameras):
        slope = jax.grad(value, has_aux=True)
        with mock.patch.object(
            rasterize, "accumulate", accumulate or rasterize.accumulate
        ):
            gradient, isects = slope(gaussians[:5], gaussians.alive, cameras)
        return isects, gradient

    return run


def picture_of(scene: Scene):
    """(gaussians, cameras) -> rgb: the forward pass alone."""

    def one(gaussians, camera):
        return rasterize.rasterize(gaussians, camera, background=jnp.ones(3)).rgb

    return jax.vmap(one, (None, 0))


def table_of(gaussians, camera):
    """Splats and the compositor's table [1 n 13] of one camera."""
    splats, features = rasterize._splats_and_features(gaussians, camera, False, None)
    rows = [splats.mean, splats.conic, splats.log_opacity[:, None], features]
    return jax.tree.map(lambda a: a[None], (splats, jnp.concatenate(rows, axis=-1)))


def lists_of(plan: composite.RasterPlan, splats):
    """The tile lists of splats [1 n]: binning alone."""
    footprints = binning.footprints(splats, plan.grid)
    begin = jnp.zeros(1, jnp.int32)
    return binning.tile_lists(footprints, begin, plan.grid, plan.capacity)[0]


def binning_of(scene: Scene):
    """Makes splats [1 n] -> their tile lists.

    As far as `rasterize`'s own buffer holds them (5000 at 256x256: all of them).
    """
    return partial(lists_of, plan_of(scene))


def splats_of(scene: Scene):
    """What `binning_of` takes."""
    camera = jax.tree.map(lambda a: a[0], cameras_of(scene))
    splats = jax.jit(project)(gaussians_of(scene), camera)
    return jax.tree.map(lambda a: a[None], splats)


def contributing(scene: Scene) -> jax.Array:
    """Pairs with alpha >= 1/255 of the first camera, counted tile by tile."""
    plan = whole_plan(scene)
    camera = jax.tree.map(lambda a: a[0], cameras_of(scene))

    @jax.jit
    def count(gaussians):
        splats, table = table_of(gaussians, camera)
        lists = lists_of(plan, splats)
        listed = composite.list_rows(table, lists, plan)
        work = composite.group_tiles(lists, plan, table.dtype)

        def group(total, tiles):
            def step(chunk, total):
                rows, _ = composite._read_chunk(listed, tiles, chunk, plan)
                alpha, _ = composite._alphas(rows, tiles.centre, plan)
                return total + jnp.sum(alpha > 0, dtype=jnp.float32)

            return composite._run_chunks(tiles, step, total, plan), None

        return lax.scan(group, jnp.zeros(()), work)[0]

    return count(gaussians_of(scene))


def longest_list(scene: Scene) -> int:
    """The longest list of a tile, over all cameras."""
    longest, plan = 0, whole_plan(scene)
    for i in range(scene.views):
        camera = jax.tree.map(lambda a, i=i: a[i], cameras_of(scene))
        splats = jax.tree.map(lambda a: a[None], project(gaussians_of(scene), camera))
        longest = max(longest, int(jnp.max(jnp.diff(lists_of(plan, splats).start))))
    return longest


def autodiff(longest: int, capacity: int):
    """The same tiles, groups and chunks, differentiated by JAX.

    In one slab of `capacity` pairs: the loop over chunks is a scan of the length that
    the longest list needs (a while loop has no transpose).
    """

    def chunks(tiles, step, state, plan):
        last = (jnp.max(tiles.count) + plan.splats_per_step - 1) // plan.splats_per_step

        def body(state, chunk):
            go = partial(step, chunk)
            return lax.cond(chunk < last, go, lambda state: state, state), None

        return lax.scan(body, state, jnp.arange(-(-longest // plan.splats_per_step)))[0]

    def accumulate(plan, splats, features, differentiation):
        del differentiation
        plan = plan._replace(capacity=capacity)
        rows = [splats.mean, splats.conic, splats.log_opacity[:, None], features]
        table, lifted = jax.tree.map(
            lambda a: a[None], (jnp.concatenate(rows, axis=-1), splats)
        )
        footprints = binning.footprints(lax.stop_gradient(lifted), plan.grid)
        begin = jnp.zeros(1, jnp.int32)
        lists, _ = binning.tile_lists(footprints, begin, plan.grid, plan.capacity)
        shape, pixels = (1, plan.grid.tiles), plan.grid.size**2
        carry = (jnp.ones((*shape, pixels)), jnp.zeros((*shape, 8, pixels)))
        with mock.patch.object(composite, "_run_chunks", chunks):
            _, sums = composite.forward_slab(table, lists, carry, plan)
        return rasterize._untile(sums[0], plan.grid), {}

    return accumulate
