"""How good a multi-view prior is: figures for its model card.

Shapes: sets of g views [n g h w 3], orbits [n g 3] (azimuth, elevation in degrees,
distance). `judge_views` names what sampled sets show and from where; `loss_of_views` is
the denoising error on held-out sets. All are deterministic from their seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.toybox.scoring import azimuth as azimuths
from sdsjax.toybox.scoring.judge import agreement, directed, labels_of, load_judge
from sdsjax.toybox.scoring.measure import GUIDANCE_SCALE, PAIR_FRACTION, STEPS
from sdsjax.toybox.scoring.sample_views import draw_orbits, sample_views
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.training.view_sets import VIEWS, batches, view_conditions
from sdsjax.toybox.world.captions import caption, parse_caption
from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import view_index

# no training has this seed: its pools are held out
HELD_OUT = MultiViewRecipe(
    singles=4, pairs=1, pools=1, group_fraction=1.0, dropout=0.0, camera_dropout=0.0,
    seed=900,
)  # fmt: skip


def captions_to_draw(count: int, seed: int) -> list[str]:
    """Random captions without view words; `PAIR_FRACTION` of them two objects."""
    rng, texts = np.random.default_rng([seed, 5]), []
    kinds, colors = list(KINDS), list(COLORS)
    for _ in range(count):
        color, other = (str(c) for c in rng.choice(colors, 2, replace=False))
        paired = rng.random() < PAIR_FRACTION
        base = BASES[rng.integers(len(BASES))] if paired else None
        kind = kinds[rng.integers(len(kinds))]
        texts.append(caption(SceneSpec(kind, color, base, other if base else None)))
    return texts


def judge_views(
    networks: StableDiffusion,
    *,
    count: int = 200,
    guidance_scale: float = GUIDANCE_SCALE,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Draws sets of four views, and asks judge and azimuth network what they show.

    Returns (the shares of `judge.agreement` over all views, and `azimuth`, the median
    error in degrees over views of single objects with sides, not from above; pictures
    [count g h w 3]; captions).
    """
    texts = captions_to_draw(count, seed)
    key, key_orbits = jax.random.split(jax.random.key(seed))
    orbits = draw_orbits(key_orbits, count)
    pictures = sample_views(
        networks, texts, orbits, key, guidance_scale=guidance_scale, steps=steps
    )
    flat = pictures.reshape(-1, *pictures.shape[2:])
    specs = [parse_caption(text)[0] for text in texts for _ in range(VIEWS)]
    turn, elevation = orbits[..., 0].ravel(), orbits[..., 1].ravel()
    seen = jax.jit(view_index)(turn, elevation)
    wanted = labels_of(specs, np.asarray(seen))
    shares: dict[str, Any] = agreement(load_judge()(flat), wanted)
    single = np.array([spec.base_kind is None for spec in specs])
    sided = directed(wanted.kind) & single & (elevation < azimuths.OVERHEAD)
    shares["azimuth"] = None
    if sided.any():
        error = azimuths.azimuth_error(
            azimuths.load_azimuth()(flat[sided]), turn[sided]
        )
        shares["azimuth"] = float(np.median(error))
    return shares, pictures, texts


def heldout_sets(folder: Path) -> pools.Pool:
    """True sets of views that no training pool holds: `loss_of_views`' own."""
    recipe = HELD_OUT
    return pools.build_pool(
        folder,
        singles=recipe.singles,
        pairs=recipe.pairs,
        seed=1000 * (recipe.seed + 1),
        views=VIEWS,
    )


def loss_of_views(
    networks: StableDiffusion, folder: Path, *, count: int = 96, seed: int = 2
) -> dict[str, dict[int, float]]:
    """Mean (eps_hat - eps)^2 at ten times on held-out sets.

    By what the network is shown: "four views", "single views", "cameras wrong by 90"
    (degrees). folder: where the held-out renders are kept.
    """
    recipe = HELD_OUT._replace(bank=count, batch=count * VIEWS)
    batch = batches(folder, networks, recipe)(0)
    text, unet, schedule = networks.text_encoder, networks.unet, networks.schedule

    @jax.jit
    def error(params, z, ids, orbit, t, key):
        eps = jax.random.normal(key, z.shape)
        z_t = schedule.alphas[t] * z + schedule.sigmas[t] * eps
        states = text.module.apply({"params": params[1]}, ids)
        camera, rays = view_conditions(orbit, jnp.ones(len(z), bool), z.shape[2])
        eps_hat: Any = unet.module.apply(
            {"params": params[0]}, z_t, jnp.full(len(z), t), states, camera,
            rays if unet.config.rays else None,
        )  # fmt: skip
        return jnp.mean((eps_hat - eps) ** 2)

    z, ids, orbit = (np.asarray(batch[k]) for k in ("z", "ids", "orbit"))
    alone = [a.reshape(-1, 1, *a.shape[2:]) for a in (z, orbit)]
    shown = {
        "four views": (z, ids, orbit),
        "single views": (alone[0], np.repeat(ids, VIEWS, axis=0), alone[1]),
        "cameras wrong by 90": (z, ids, orbit + np.array([90.0, 0.0, 0.0])),
    }
    losses: dict[str, dict[int, float]] = {}
    params = unet.params, text.params
    for name, arrays in shown.items():
        size = len(arrays[0])
        parts = np.array_split(np.arange(size), max(1, size * arrays[0].shape[1] // 48))
        weights = [len(part) for part in parts]
        for t in range(50, 1000, 100):
            each = [
                error(params, *(a[i] for a in arrays), t, jax.random.key(i[0] + t))
                for i in parts
            ]
            found = float(np.average(each, weights=weights))
            losses.setdefault(name, {})[t] = found
    return losses
