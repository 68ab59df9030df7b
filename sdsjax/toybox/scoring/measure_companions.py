"""How good toybox-dpt, toybox-normals and toybox-clip are: figures for their cards.

All on true renders from cameras that no training pool holds, seeded. What the networks
see: "clean" renders, "early" ones, x_t, and D(z_t) of toybox-sd (degrade.py), the last
two at times t of the schedule. Shapes are compared where opacity > 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.vision import dpt
from sdsjax.models.vision.clip_scorer import prepare
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.degrade import early_render, noised, through_latents
from sdsjax.toybox.world.captions import caption
from sdsjax.toybox.world.contrasts import ASPECTS, COLOR_NAMES, KIND_NAMES, Said, wrong
from sdsjax.toybox.world.objects import DIRECTED_KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import VIEW_WORDS

LEVELS = (100, 300, 500, 700, 900)
PAIR_FRACTION = 0.3
BATCH = 40  # pictures a call


def heldout_surfaces(folder: Path, *, singles: int = 8, pairs: int = 2) -> pools.Pool:
    """True renders with their surfaces from cameras that no training pool holds."""
    return pools.build_pool(
        folder, singles=singles, pairs=pairs, seed=1_000, surfaces=True
    )


def looks(prior: str = "toybox-sd") -> dict[str, Callable]:
    """What a network sees of renders by name: (key, x, background) -> pictures.

    x and pictures `[b h w 3]`.
    """
    vae, schedule = hub.load_component(prior, "vae"), NoiseSchedule.scaled_linear()
    frozen = {"vae": vae.params, "scaling_factor": vae.config.scaling_factor}
    plain = jax.jit(lambda key, x, t: noised(key, x, t, schedule))
    latent = jax.jit(
        lambda frozen, key, x, t: through_latents(
            key, x, t, schedule, vae.module.apply, frozen
        )
    )
    seen: dict[str, Callable] = {"clean": lambda key, x, background: x}
    seen["early"] = jax.jit(early_render)
    for t in LEVELS:
        seen[f"x_t, t = {t}"] = lambda key, x, _, t=t: plain(key, x, _times(x, t))
    for t in LEVELS:
        seen[f"D(z_t), t = {t}"] = lambda key, x, _, t=t: latent(
            frozen, key, x, _times(x, t)
        )
    return seen


def _times(x, t: int):
    return jnp.full(x.shape[0], t)


def depth_scores(disparity, surface, mask) -> dict[str, np.ndarray]:
    """Per picture, over `mask` `[b h w]` bool, numpy.

    correlation: Pearson's of disparities; abs_rel: mean |depth error| / depth in the
    pool's units; aligned: the same after the least-squares scale and shift of the
    disparity (as HiFA's depth loss aligns, arXiv 2305.18766 eq. 6).
    """
    out: dict[str, list] = {"correlation": [], "abs_rel": [], "aligned": []}
    for guess, true, where in zip(disparity, surface[..., 0], mask):
        d, y = guess[where].astype(np.float64), true[where].astype(np.float64)
        depth = _depth(y)
        out["abs_rel"].append(np.mean(np.abs(_depth(d) - depth) / depth))
        flat = d.std() < 1e-9
        slope = 0.0 if flat else np.mean((d - d.mean()) * (y - y.mean())) / d.var()
        fitted = y.mean() + slope * (d - d.mean())
        out["aligned"].append(np.mean(np.abs(_depth(fitted) - depth) / depth))
        known = 0.0 if flat or y.std() < 1e-9 else np.corrcoef(d, y)[0, 1]
        out["correlation"].append(known)
    return {name: np.asarray(values) for name, values in out.items()}


def _depth(disparity):
    inverse = (1.0 - disparity) / pools.FAR + disparity / pools.NEAR
    return 1.0 / np.clip(inverse, 0.1, 1.0)


def normal_degrees(normals, surface, mask) -> np.ndarray:
    """Mean angle in degrees per picture, over `mask` `[b h w]` bool."""
    true = 2.0 * surface[..., 1:] - 1.0
    true = true / np.maximum(np.linalg.norm(true, axis=-1, keepdims=True), 1e-6)
    cosine = np.clip(np.sum(true * normals, -1), -1.0, 1.0)
    angle = np.degrees(np.arccos(cosine))
    return np.asarray([a[m].mean() for a, m in zip(angle, mask)])


def heldout_batch(pool: pools.Pool, count: int, seed: int = 4):
    """Draws `count` held-out renders with their true surfaces.

    Returns (chosen, x `[n h w 3]` in [-1, 1], surfaces `[n h w 4]` in [0, 1], masks
    `[n h w]` of the object).
    """
    rng = np.random.default_rng([seed, 11])
    pooled = pools.surfaces_of(pool)
    chosen = pools.draw(pool, rng, count, pair_fraction=PAIR_FRACTION)
    surface = pooled[chosen.row].astype(np.float32) / 255.0
    mask = pool.layers[chosen.row][..., 5] > 127
    return chosen, pools.pictures(pool, chosen), surface, mask


def predictor(network) -> Callable:
    """Compiles a depth or normals network into a function of pictures.

    x `[n h w 3]` in [-1, 1] -> what `dpt.predict` says of them, in batches.
    """
    run = jax.jit(lambda params, x: dpt.predict(network.module, params, x))

    def predict(x) -> np.ndarray:
        parts = np.array_split(x, max(1, len(x) // BATCH))
        return np.concatenate([np.asarray(run(network.params, p)) for p in parts])

    return predict


def _seen(look: Callable, x, background, seed: int) -> np.ndarray:
    parts = max(1, len(x) // BATCH)
    pairs = zip(np.array_split(x, parts), np.array_split(background, parts))
    keys = jax.random.split(jax.random.key(seed), parts)
    return np.concatenate([np.asarray(look(k, *pair)) for k, pair in zip(keys, pairs)])


def measure_shapes(
    network, name: str, pool: pools.Pool, *, count: int = 200, seed: int = 4
) -> dict[str, dict[str, float]]:
    """Measures a `depth` or `normals` network on held-out renders.

    Returns mean scores by name, for each look of `looks`; "flat" is what a network that
    ignores the picture would score: the depth of the pool's mean disparity, or normals
    that face the camera.
    """
    chosen, x, surface, mask = heldout_batch(pool, count, seed)

    def score(guess) -> dict[str, float]:
        if name == "depth":
            scores = depth_scores(guess, surface, mask)
        else:
            scores = {"degrees": normal_degrees(guess, surface, mask)}
        return {key: float(np.mean(values)) for key, values in scores.items()}

    predict = predictor(network)
    figures = {
        look_name: score(predict(_seen(look, x, chosen.background, seed)))
        for look_name, look in looks().items()
    }
    flat = np.zeros(surface.shape[:3]) + surface[..., 0][mask].mean()
    facing = np.broadcast_to((0.0, 0.0, -1.0), (*flat.shape, 3))
    figures["flat"] = score(flat if name == "depth" else facing)
    return figures


def embedders(network, tokenizer) -> tuple[Callable, Callable]:
    """Compiles a scorer's two towers into functions of pictures and of texts.

    x `[n h w 3]` in [-1, 1] -> `[n p]`, and a list of m texts -> `[m p]`, unit vectors:
    1 - their products are the distances of `clip_scorer.clip_distance`.
    """
    module, size = network.module, network.config.vision.image_size

    @jax.jit
    def image(params, x):
        rgb = prepare(jnp.clip(0.5 * x + 0.5, 0.0, 1.0), size)
        return module.apply({"params": params}, rgb, method="embed_images")

    @jax.jit
    def text(params, ids):
        return module.apply({"params": params}, ids, method="embed_texts")

    def images(x):
        parts = np.array_split(x, max(1, len(x) // BATCH))
        return np.concatenate([np.asarray(image(network.params, p)) for p in parts])

    return images, lambda texts: np.asarray(text(network.params, tokenizer(texts)))


def _ranked(rng, of_texts, pictures, shown: list[Said], own) -> dict[str, float]:
    """aspect -> share of pictures nearer to their caption than to a wrong one."""
    rates = {}
    for aspect in ASPECTS:
        others = [wrong(rng, said, aspect) for said in shown]
        kept = [i for i, said in enumerate(others) if said is not None]
        texts = of_texts([caption(*said) for said in others if said is not None])
        against = 1.0 - np.sum(pictures[kept] * texts, -1)
        rates[aspect] = float(np.mean(own[kept] < against))
    return rates


def _understood(embed, x, shown: list[Said]) -> dict[str, float]:
    """The figures of `measure_scorer` for pictures `[n h w 3]` of `shown`."""
    of_images, of_texts = embed
    pictures = of_images(x)
    specs, views = [said.spec for said in shown], np.asarray([s.view for s in shown])
    names = [SceneSpec(kind, color) for kind in KIND_NAMES for color in COLOR_NAMES]
    nearest = (pictures @ of_texts([caption(name) for name in names]).T).argmax(1)
    kind = np.asarray([names[i].kind == s.kind for i, s in zip(nearest, specs)])
    color = np.asarray([names[i].color == s.color for i, s in zip(nearest, specs)])
    single = np.asarray([s.base_kind is None for s in specs])
    front = np.asarray([s.kind in DIRECTED_KINDS for s in specs])
    count = len(VIEW_WORDS)
    said = of_texts([caption(s, v) for s in specs for v in range(count)])
    by_view = 1.0 - np.einsum(
        "np,nvp->nv", pictures, said.reshape(-1, count, said.shape[1])
    )
    own = by_view[np.arange(len(specs)), views]
    rates = _ranked(np.random.default_rng(0), of_texts, pictures, shown, own)
    return {
        "kind": float(np.mean(kind[single])),
        "color": float(np.mean(color[single])),
        "both": float(np.mean((kind & color)[single])),
        "view": float(np.mean((by_view.argmin(1) == views)[front])),
        **{f"wrong_{aspect}": rate for aspect, rate in rates.items()},
        "distance": float(np.mean(own)),
    }


def measure_scorer(
    network, tokenizer, pool: pools.Pool, *, count: int = 400, seed: int = 5
) -> dict[str, dict[str, float]]:
    """Counts the held-out renders that a scorer understands, as shares by name.

    Of clean pictures ("clean") and of such as early training shows ("early"). kind,
    color, both: single objects whose nearest caption of all kinds x colours, without
    view words, says so; view: pictures of kinds with a front, nearest among their
    caption with each view word; wrong_object, wrong_color, wrong_view: nearer to their
    caption than to one wrong in that alone; distance: mean, to their caption.
    """
    chosen, x, _, _ = heldout_batch(pool, count, seed)
    views = pool.view[chosen.row]
    shown = [Said(s, int(v)) for s, v in zip(pools.specs(pool, chosen), views)]
    embed = embedders(network, tokenizer)
    early = jax.jit(early_render)(jax.random.key(seed), x, chosen.background)
    seen = {"clean": x, "early": np.asarray(early)}
    return {name: _understood(embed, x, shown) for name, x in seen.items()}
