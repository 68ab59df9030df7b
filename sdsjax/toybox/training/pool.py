"""The training pictures: a pool of layers rendered once, coloured anew for each batch.

A picture is linear in its colours (world.compose), so one rendered geometry and view
serves every colour and background. The pool holds, as uint8, the six layers fixed
(3), primary, secondary and opacity, `[n, size, size, 6]`; a batch is a pure function
of (seed, step), so that training resumes exactly.

For a prior that is shown several views at once a pool holds sets: each run of `views`
rows shows one geometry from one elevation and distance, at azimuths spread evenly.

For what reads shapes from pictures a pool also holds the surface: its disparity from 0
at depth FAR (and where nothing is) to 1 at depth NEAR, and its normal in camera axes.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sdsjax.cameras import orbit_camera
from sdsjax.files.atomic import write_text
from sdsjax.toybox.world.captions import caption, pair_split
from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.toybox.world.renderer import render_batch
from sdsjax.toybox.world.scene import SceneSpec, build_scene, stack_scenes
from sdsjax.toybox.world.views import FOV_DEG, draw_orbit, spread_azimuths, view_index

PALETTE = np.asarray(list(COLORS.values()), np.float32)
COLOR_NAMES = tuple(COLORS)
# depths between which every visible point lies: orbits of 2.9 to 3.3, objects of 0.92
NEAR, FAR = 1.95, 4.1
CHUNK = 64  # pictures a call: small enough to show progress, large enough to be fast


class Pool(NamedTuple):
    """Rendered pictures before they are coloured.

    layers [n, s, s, 6] uint8 (a memory map); geometry [n] index into `geometries()`;
    view [n] index into VIEW_WORDS; surface [n, s, s, 4] uint8: disparity and normal, 0
    where nothing is covered, or None; orbit [n, 3] float32: azimuth and elevation in
    degrees and distance, or None (pools of sets have it).
    """

    layers: np.ndarray
    geometry: np.ndarray
    view: np.ndarray
    surface: np.ndarray | None = None
    orbit: np.ndarray | None = None


class Draw(NamedTuple):
    """What a batch shows: pool rows, colour indices and backgrounds [b, 3]."""

    row: np.ndarray
    color_a: np.ndarray
    color_b: np.ndarray
    background: np.ndarray


def geometries() -> list[tuple[str, str | None]]:
    """Every (kind, base kind): the single objects first, then the pairs."""
    singles: list[tuple[str, str | None]] = [(kind, None) for kind in KINDS]
    return singles + [(kind, base) for kind in KINDS for base in BASES]


def _scene(geometry: tuple[str, str | None]):
    kind, base = geometry
    color, base_color = COLOR_NAMES[:2]
    return build_scene(SceneSpec(kind, color, base, base_color if base else None))


def _plan(singles: int, pairs: int) -> np.ndarray:
    """The geometry index of every picture: `singles` views a kind, `pairs` a pair."""
    counts = [singles if base is None else pairs for _, base in geometries()]
    return np.repeat(np.arange(len(counts)), counts).astype(np.int32)


def disparity_of(depth):
    """The disparity of camera z in world units: 0 at FAR, 1 at NEAR.

    Exact, so 1 / depth = (1 - d) / FAR + d / NEAR gives the depth back.
    """
    return (1.0 / depth - 1.0 / FAR) / (1.0 / NEAR - 1.0 / FAR)


def _surface(layers, cameras) -> np.ndarray:
    """The surfaces of pictures, [b, s, s, 4] in [0, 1].

    Disparity, and (normal + 1) / 2 in camera axes (x right, y down, z forward); all 0
    where nothing is covered.
    """
    depth, covered = np.asarray(layers.depth), np.asarray(layers.opacity) > 0
    disparity = np.where(covered, disparity_of(np.where(covered, depth, FAR)), 0.0)
    turn = np.asarray(cameras.world_to_camera)[:, :3, :3]
    normal = np.einsum("bij,bhwj->bhwi", turn, np.asarray(layers.normal))
    normal = np.where(covered[..., None], 0.5 + 0.5 * normal, 0.0)
    return np.concatenate([disparity[..., None], normal], axis=-1)


def _bytes(values) -> np.ndarray:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _begin_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)


def _check_settings(folder: Path, found: dict, settings: dict) -> None:
    if found != settings:
        raise ValueError(
            f"{folder} holds a pool made with {found}, this run asks for "
            f"{settings}: choose another folder or the same settings"
        )


def build_pool(
    folder: Path,
    *,
    singles: int,
    pairs: int,
    size: int = 64,
    seed: int = 0,
    surfaces: bool = False,
    views: int = 1,
    log=print,
) -> Pool:
    """Renders the pool into `folder`, or opens the one that is there.

    `singles`, `pairs`: views of each single object and of each pair, or sets of so
    many `views`; `surfaces`: also disparity and normals. A pool that was begun and not
    finished is rendered anew; one made with other settings is refused with a
    ValueError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"singles": singles, "pairs": pairs, "size": size, "seed": seed}
    if surfaces:
        settings["surfaces"] = True
    if views > 1:
        settings["views"] = views
    done = folder / "pool.json"
    if done.exists():
        _check_settings(folder, json.loads(done.read_text()), settings)
        return _open(folder)
    plan = np.repeat(_plan(singles, pairs), views)
    orbit = _orbits(seed, len(plan) // views, views)
    _render_pool(folder, plan, orbit, size, surfaces, log)
    np.save(folder / "geometry.npy", plan)
    seen = jax.jit(view_index)(*orbit[:, :2].T)
    np.save(folder / "view.npy", np.asarray(seen))
    if views > 1:
        np.save(folder / "orbit.npy", orbit)
    write_text(done, json.dumps(settings))
    return _open(folder)


@partial(jax.jit, static_argnums=1)
def _cameras(orbit, size: int):
    """The square cameras of orbits [b, 3]; mapped without jit, each thread compiles
    every operation of it."""
    return jax.vmap(
        lambda a, e, d: orbit_camera(a, e, d, fov=FOV_DEG, width=size, height=size)
    )(*orbit.T)


def _orbits(seed: int, sets: int, views: int) -> np.ndarray:
    """[sets * views, 3]: azimuth, elevation, distance; the views of a set in a run."""
    keys = jax.random.split(jax.random.key(seed), sets)
    azimuth, elevation, distance = jax.jit(jax.vmap(draw_orbit))(keys)
    if views > 1:
        azimuth = spread_azimuths(azimuth, views).reshape(-1)
    rest = (np.repeat(np.asarray(a), views) for a in (elevation, distance))
    return np.stack([np.asarray(azimuth), *rest], axis=-1)


def _render_pool(folder: Path, plan, orbit, size: int, surfaces: bool, log) -> None:
    """Writes layers.npy, and surface.npy if asked, chunk by chunk on two threads."""
    scenes = [_scene(geometry) for geometry in geometries()]

    shape = (len(plan), size, size)
    layers = _begin_array(folder / "layers.npy", (*shape, 6))
    path = folder / "surface.npy"
    surface = _begin_array(path, (*shape, 4)) if surfaces else None

    def render(start: int) -> None:
        rows = np.arange(start, start + CHUNK) % len(plan)
        cameras = _cameras(orbit[rows], size)
        batch = stack_scenes([scenes[plan[row]] for row in rows])
        out = render_batch(batch, cameras)
        stacked = [out.fixed, *(a[..., None] for a in out[1:4])]
        picture = np.concatenate([np.asarray(a) for a in stacked], axis=-1)
        stop = min(start + CHUNK, len(plan))
        layers[start:stop] = _bytes(picture[: stop - start])
        if surface is not None:
            surface[start:stop] = _bytes(_surface(out, cameras)[: stop - start])
        if (start // CHUNK) % 50 == 0:
            log(f"pool: {start} of {len(plan)} pictures")

    with ThreadPoolExecutor(2) as workers:
        list(workers.map(render, range(0, len(plan), CHUNK)))
    layers.flush()
    if surface is not None:
        surface.flush()


def _open(folder: Path) -> Pool:
    surface, orbit = folder / "surface.npy", folder / "orbit.npy"
    return Pool(
        np.load(folder / "layers.npy", mmap_mode="r"),
        np.load(folder / "geometry.npy"),
        np.load(folder / "view.npy"),
        np.load(surface, mmap_mode="r") if surface.exists() else None,
        np.load(orbit) if orbit.exists() else None,
    )


def surfaces_of(pool: Pool) -> np.ndarray:
    """Returns `pool.surface`. Raises ValueError if the pool was built without."""
    if pool.surface is None:
        raise ValueError("the pool holds no surfaces: build it with surfaces=True")
    return pool.surface


def orbits_of(pool: Pool) -> np.ndarray:
    """Returns `pool.orbit`. Raises ValueError if the pool holds no view sets."""
    if pool.orbit is None:
        raise ValueError("the pool holds no view sets: build it with views=4")
    return pool.orbit


def draw(
    pool: Pool, rng: np.random.Generator, count: int, *, pair_fraction: float
) -> Draw:
    """Chooses pictures, colours and backgrounds for a batch of `count`.

    Half of the backgrounds are any flat colour, the rest white or a grey. A pair's
    two colours differ, and combinations held out by `captions.pair_split` are drawn
    again.
    """
    single_rows = int(np.searchsorted(pool.geometry, len(KINDS)))
    paired = rng.random(count) < pair_fraction
    row = np.where(
        paired,
        rng.integers(single_rows, len(pool.geometry), count),
        rng.integers(0, single_rows, count),
    )
    color_a = rng.integers(0, len(PALETTE), count)
    color_b = (color_a + rng.integers(1, len(PALETTE), count)) % len(PALETTE)
    for i in np.flatnonzero(paired):
        while _spec(pool, row[i], color_a[i], color_b[i]) in _heldout():
            color_a[i] = rng.integers(0, len(PALETTE))
            color_b[i] = (color_a[i] + rng.integers(1, len(PALETTE))) % len(PALETTE)
    sort = rng.random((count, 1))
    background = rng.random((count, 3)).astype(np.float32)
    background = np.where(sort < 0.5, background, background[:, :1])
    background = np.where(sort > 0.8, 1.0, background).astype(np.float32)
    return Draw(row, color_a, color_b, background)


@cache
def _heldout() -> frozenset[SceneSpec]:
    return frozenset(pair_split()[1])


def _spec(pool: Pool, row: int, color_a: int, color_b: int) -> SceneSpec:
    kind, base = geometries()[pool.geometry[row]]
    base_color = COLOR_NAMES[color_b] if base else None
    return SceneSpec(kind, COLOR_NAMES[color_a], base, base_color)


def specs(pool: Pool, chosen: Draw) -> list[SceneSpec]:
    """What each picture of the batch shows."""
    rows = zip(chosen.row, chosen.color_a, chosen.color_b)
    return [_spec(pool, row, a, b) for row, a, b in rows]


def pictures(pool: Pool, chosen: Draw) -> np.ndarray:
    """The batch in colour: x [b, s, s, 3] float32 in [-1, 1] (world.compose)."""
    layers = pool.layers[chosen.row].astype(np.float32) / 255.0
    fixed, primary, secondary, opacity = np.split(layers, [3, 4, 5], axis=-1)
    rgb = (
        fixed
        + primary * PALETTE[chosen.color_a][:, None, None]
        + secondary * PALETTE[chosen.color_b][:, None, None]
        + (1.0 - opacity) * chosen.background[:, None, None]
    )
    return 2.0 * np.clip(rgb, 0.0, 1.0) - 1.0


def captions(
    pool: Pool,
    chosen: Draw,
    rng: np.random.Generator,
    *,
    view_fraction: float,
    dropout: float,
) -> list[str]:
    """A caption for every picture of the batch, in random wording.

    View words for `view_fraction` of them, and "" for `dropout` of them (for guidance).
    """
    count = len(chosen.row)
    wording = rng.integers(0, 16, count)
    named, dropped = rng.random(count) < view_fraction, rng.random(count) < dropout
    texts = []
    for i, spec in enumerate(specs(pool, chosen)):
        view = int(pool.view[chosen.row[i]]) if named[i] else None
        texts.append("" if dropped[i] else caption(spec, view, int(wording[i])))
    return texts
