"""How good the prior and its judge are: figures for the model card.

`judge_samples` names samples of the prior; `judge_renders` names fresh true renders
(new cameras, the test of the judge itself); `loss_by_timestep` is the denoising error
on fresh renders. All are deterministic from their seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.toybox.scoring.judge import (
    agreement,
    labels_of,
    load_judge,
    prompts_to_judge,
)
from sdsjax.toybox.scoring.sample import sample
from sdsjax.toybox.training import pool as pools

PAIR_FRACTION = 0.3
GUIDANCE_SCALE = 3.0  # at which samples are judged unless asked otherwise
STEPS = 40  # of DDIM, a sample


def judge_samples(
    networks: Any,
    *,
    draw: Callable[..., np.ndarray] = sample,
    count: int = 1000,
    guidance_scale: float = GUIDANCE_SCALE,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[dict, np.ndarray, list[str]]:
    """Samples captions from a prior, and asks the judge what the pictures show.

    networks: what `draw`, a function like `sample`, takes. Returns (the shares of
    `judge.agreement`, pictures [count h w 3], captions).
    """
    texts, wanted = prompts_to_judge(count, PAIR_FRACTION, seed)
    pictures = draw(
        networks,
        texts,
        jax.random.key(seed),
        guidance_scale=guidance_scale,
        steps=steps,
    )
    said = load_judge()(jnp.asarray(pictures))
    return agreement(said, wanted), pictures, texts


def heldout_pool(folder: Path, *, singles: int = 40, pairs: int = 8) -> pools.Pool:
    """True renders from cameras that no training pool (seed 0) holds."""
    return pools.build_pool(folder, singles=singles, pairs=pairs, seed=1_000)


def judge_renders(pool: pools.Pool, *, count: int = 4000, seed: int = 1) -> dict:
    """Shares of true renders that the judge names rightly."""
    judge, rng = load_judge(), np.random.default_rng([seed, 6])
    chosen = pools.draw(pool, rng, count, pair_fraction=PAIR_FRACTION)
    wanted = labels_of(pools.specs(pool, chosen), pool.view[chosen.row])
    parts = np.array_split(np.arange(count), max(1, count // 200))
    said = [
        judge(pools.pictures(pool, jax.tree.map(lambda a, i=i: a[i], chosen)))
        for i in parts
    ]
    merged = type(wanted)(*(np.concatenate(part) for part in zip(*said)))
    return agreement(merged, wanted)


def reconstruction_psnr(
    networks: StableDiffusion, pool: pools.Pool, *, count: int = 400, seed: int = 3
) -> float:
    """Of D(E(x)) against fresh renders x, the error pooled over pictures; dB."""
    rng = np.random.default_rng([seed, 8])
    chosen = pools.draw(pool, rng, count, pair_fraction=PAIR_FRACTION)
    vae = networks.vae

    @jax.jit
    def error(params, x):
        z = vae.module.apply({"params": params}, x, method="encode")[0]
        out: Any = vae.module.apply({"params": params}, z, method="decode")
        return jnp.mean((jnp.clip(out, -1, 1) - x) ** 2)

    parts = np.array_split(pools.pictures(pool, chosen), max(1, count // 50))
    mse = np.mean([float(error(vae.params, x)) for x in parts])
    return float(10 * np.log10(4.0 / mse))  # x spans [-1, 1]


def captioned_renders(
    pool: pools.Pool, count: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Draws renders x [count h w 3] of a pool, with captions that have view words."""
    rng = np.random.default_rng([seed, 7])
    chosen = pools.draw(pool, rng, count, pair_fraction=PAIR_FRACTION)
    texts = pools.captions(pool, chosen, rng, view_fraction=1.0, dropout=0.0)
    return pools.pictures(pool, chosen), texts


TIMES = range(50, 1000, 100)  # of 1000, at which errors are measured


def mean_by_time(error: Callable, count: int) -> dict[int, float]:
    """Averages an error over `count` renders, at each of TIMES.

    error: (indices of some renders, t, key) -> their mean error.
    """
    parts = np.array_split(np.arange(count), max(1, count // 50))

    def mean(t: int) -> float:
        values = [error(i, t, jax.random.key(int(i[0]) + t)) for i in parts]
        return float(np.mean([float(value) for value in values]))

    return {t: mean(t) for t in TIMES}


def loss_by_timestep(
    networks: StableDiffusion, pool: pools.Pool, *, count: int = 400, seed: int = 2
) -> dict[int, float]:
    """Mean (eps_hat - eps)^2 at ten times, on fresh captioned renders."""
    x, texts = captioned_renders(pool, count, seed)
    ids = networks.tokenizer(texts)
    unet, vae, text = networks.unet, networks.vae, networks.text_encoder
    schedule = networks.schedule

    @jax.jit
    def error(params, x, ids, t, key):
        z = vae.module.apply({"params": params[1]}, x, method="encode")[0]
        z = z * vae.config.scaling_factor
        eps = jax.random.normal(key, z.shape)
        z_t = schedule.alphas[t] * z + schedule.sigmas[t] * eps
        states = text.module.apply({"params": params[2]}, ids)
        eps_hat: Any = unet.module.apply(
            {"params": params[0]}, z_t, jnp.full(z.shape[0], t), states
        )
        return jnp.mean((eps_hat - eps) ** 2)

    params = unet.params, vae.params, text.params
    return mean_by_time(lambda i, t, key: error(params, x[i], ids[i], t, key), count)


def sample_sheet(path: Path, pictures: np.ndarray, texts: list[str], columns: int = 8):
    """Draws captioned pictures [n h w 3] in [-1, 1] as one PNG, each doubled."""
    side, band = 2 * pictures.shape[1], 36
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + band)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        x, y = (i % columns) * side, (i // columns) * (side + band)
        rgb = np.round(127.5 * (np.clip(picture, -1, 1) + 1)).astype(np.uint8)
        sheet.paste(Image.fromarray(rgb).resize((side, side), Image.NEAREST), (x, y))
        lines = text.replace(" on ", "\non ").replace(", ", "\n").split("\n")
        for k, line in enumerate(lines):
            pen.text((x + 2, y + side + 11 * k), line, fill="black", font_size=10)
    sheet.save(path)
