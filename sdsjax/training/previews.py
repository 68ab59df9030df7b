"""Previews: the object from fixed views, and what the prior would make of it.

The lower row is StableDreamer's debugging view (arXiv 2312.02189): noise is added to
the latent of the first view, and the one-step denoised image xhat = decode(zhat),
zhat = (z_t - sigma_t e_s) / alpha_t, is shown for several t with the render beside it.
A healthy run has xhat sharpen the render; where xhat shows another object, or another
side of it, one sees what the gradient pulls towards. rgb in [0, 1]; x in [-1, 1].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cameras import Camera, OrbitRange, fitted_distance
from sdsjax.diffusion import add_noise, denoised, guide
from sdsjax.files.atomic import replacing
from sdsjax.runs.compile_cache import light_compilation
from sdsjax.toybox.scoring.score import orbit_cameras
from sdsjax.training.encoding import bind, to_latent
from sdsjax.types import PriorSource, View

AZIMUTHS = (0.0, 90.0, 180.0, -90.0)
ELEVATION = 15.0
LEVELS = (200, 400, 600, 800)
GUIDANCE = 7.5  # of xhat: what a sampler would use, whatever the estimator's is


def make_draw(representation) -> Callable:
    """Makes draw(params, rep_state, camera) -> Rendering on white, without its aux.

    Jitted, with the parameters as arguments: one program for each size of a picture
    serves previews, turntables and scores, of every asset of this kind.
    """

    def draw(params, rep_state, camera):
        return representation.render(params, rep_state, camera, None)._replace(aux=None)

    return jax.jit(draw, compiler_options=light_compilation(1))


def _middle(interval) -> float:
    return 0.5 * (interval[0] + interval[1])


def fixed_views(
    orbit: OrbitRange, size: int, azimuths: Sequence[float] = AZIMUTHS
) -> Camera:
    """Places cameras at some azimuths (degrees), [4] by default.

    Front, left, back, right; elevation, distance and fov inside the run's range of
    views.
    """
    elevation = min(max(ELEVATION, orbit.elevation[0]), orbit.elevation[1])
    distance, fov = _middle(orbit.distance), _middle(orbit.fov)
    if orbit.relative_distance:
        distance = float(fitted_distance(distance, fov))
    rows = [(azimuth, elevation, distance) for azimuth in azimuths]
    return orbit_cameras(rows, size, fov=fov)


def make_denoised_views(source: PriorSource, space: str) -> Callable:
    """Makes a jitted function that shows what the prior would make of a view.

    xhats(prior_params, rendering, camera, key) -> [len(LEVELS) h w c], rgb in [0, 1].
    For a prior that sees g views together, rendering and camera are of g views [g ...],
    and the first of them is shown.
    """

    def xhats(prior_params, rendering, camera, key):
        prior = bind(source, prior_params)
        assert prior.decode is not None
        decode = prior.decode

        def latent(rgb):
            return to_latent(source, prior, space, rgb)[0]

        together = prior.group > 1
        z = (jax.vmap(latent) if together else latent)(rendering.rgb)
        eps = jax.random.normal(key, z.shape, z.dtype)
        view = View(camera, rendering)

        def at(t):
            z_t = add_noise(prior.schedule, z, eps, t)
            e = prior.noise(z_t, t, view)
            assert e.cond is not None
            assert e.uncond is not None
            zhat = denoised(prior.schedule, z_t, guide(e.cond, e.uncond, GUIDANCE), t)
            return 0.5 * (decode(zhat[0] if together else zhat) + 1.0)

        # One level at a time: a preview must not need more memory than a step.
        return jax.lax.map(at, jnp.asarray(LEVELS, jnp.int32))

    # Drawn a few times in a run: what counts is what it takes to compile.
    return jax.jit(xhats, compiler_options=light_compilation(0))


class Previews:
    """The previews of a run: calling it draws one, `compile` readies its programs.

    preview(params, rep_state, prior_params, key) -> (renders [v h w c], xhats
    [len(LEVELS) h w c] or None); rgb in [0, 1]. draw: of `make_draw`. xhats is None
    where the prior cannot decode to an image.
    """

    def __init__(
        self,
        source: PriorSource,
        representation,
        orbit: OrbitRange,
        size: int,
        draw: Callable,
    ):
        bound = source.bind(source.params)
        self.decodes, self.group = bound.decode is not None, bound.group
        self.latent = representation.space == "latent"
        self.orbit, self.size, self.draw = orbit, size, draw
        self.xhats = make_denoised_views(source, representation.space)

        @jax.jit
        def decoded(prior_params, z):
            decode = bind(source, prior_params).decode
            assert decode is not None
            return 0.5 * (decode(z) + 1.0)

        self.decoded = decoded

    def _cameras(self, azimuths: Sequence[float]) -> list[Camera]:
        cameras = fixed_views(self.orbit, self.size, azimuths)
        return [
            jax.tree.map(operator.itemgetter(view), cameras)
            for view in range(len(azimuths))
        ]

    def _together(self) -> list[Camera]:
        # what the prior sees at once: the front, and a group's others evenly around
        return self._cameras([360.0 * v / self.group for v in range(self.group)])

    def _stacked(self, views):
        # [(rendering, camera)] as xhats takes them
        if self.group == 1:
            return views[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)

    def __call__(self, params, rep_state, prior_params, key):
        """Draws a preview; see the class."""
        cameras = self._cameras(AZIMUTHS)
        drawn = [self.draw(params, rep_state, camera) for camera in cameras]
        pictures = [rendering.rgb for rendering in drawn]
        if not self.decodes:
            return np.stack(pictures), None
        views = [(drawn[0], cameras[0])]
        if self.group > 1:
            views = [(self.draw(params, rep_state, at), at) for at in self._together()]
        found = self.xhats(prior_params, *self._stacked(views), key)
        if self.latent:
            pictures = [self.decoded(prior_params, z) for z in pictures]
        return np.stack(pictures), found if found.ndim == 4 else None

    def compile(self, params, rep_state, prior_params, key) -> None:
        """Compiles what takes longest before a preview can be drawn, and runs nothing.

        Takes what `ahead.shapes_of` makes of the arguments of a preview.
        """
        cameras = self._together()
        self.draw.lower(params, rep_state, cameras[0]).compile()
        if not self.decodes:
            return
        drawn = jax.eval_shape(self.draw, params, rep_state, cameras[0])
        rendering, camera = jax.eval_shape(
            self._stacked, [(drawn, camera) for camera in cameras]
        )
        # bound to a device where what is drawn is
        given = jax.tree.leaves((params, rep_state))
        places = (getattr(leaf, "sharding", None) for leaf in given)
        where = next(filter(None, places), None)
        rendering = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            rendering,
        )
        self.xhats.lower(prior_params, rendering, camera, key).compile()


def picture(renders: np.ndarray, xhats: np.ndarray | None) -> np.ndarray:
    """Lays out a preview, uint8 [h w 3]: the views, below them render and xhats.

    A 2D picture has no other side: its views are all alike, and the lower row begins
    with it.
    """
    renders = np.asarray(renders)
    alike = len(renders) > 1 and np.all(renders == renders[:1])
    rows = [renders[:1] if alike else renders]
    if xhats is not None:
        xhats = np.asarray(xhats)
        below = np.concatenate([_resized(renders[0], xhats.shape[1:3])[None], xhats])
        rows = [below] if alike else [*rows, below]
    height = max(row.shape[1] for row in rows)
    strips = []
    for row in rows:
        tiles = [_resized(_color(tile), (height, height)) for tile in row]
        strips.append(np.concatenate(tiles, axis=1))
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(
            strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=1.0
        )
        for strip in strips
    ]
    whole = np.clip(np.nan_to_num(np.concatenate(padded)), 0.0, 1.0)
    return np.round(255 * whole).astype(np.uint8)


def _color(tile: np.ndarray) -> np.ndarray:
    """Gives any image three channels: gray is repeated, of latents the first three."""
    tile = tile[..., None] if tile.ndim == 2 else tile
    return np.repeat(tile[..., :1], 3, -1) if tile.shape[-1] < 3 else tile[..., :3]


def _resized(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by nearest neighbour: a preview invents no detail."""
    if tile.shape[:2] == tuple(size):
        return tile
    rows = (np.arange(size[0]) + 0.5) * tile.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * tile.shape[1] / size[1]
    return tile[rows.astype(int)][:, columns.astype(int)]


def write_preview(folder: Path, step: int, image: np.ndarray) -> Path:
    """Writes `<folder>/step-000123.png`, whole or not at all."""
    from PIL import Image

    path = folder / f"step-{step:06d}.png"
    with replacing(path) as partial:
        Image.fromarray(image).save(partial)
    return path
