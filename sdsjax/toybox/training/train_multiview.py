"""The recipe of `toybox-mv`: toybox-sd taught the camera, on sets of four views.

Stages: the UNet and its text encoder go on from a toybox-sd's weights, at a constant
rate with a moving average, so that the run may be stopped and continued at any time;
then, from a copy of the checkpoint, the cool-down, whose weights are written. The VAE
is the start's and stays as it is. Pictures come from pools of view sets (pool.py), each
rendered when the training first asks for it, and are encoded a bank at a time.

Notation: b groups of g views; a batch is z `[b g h w c]` (the latents' means, scaled),
ids `[b n]` one caption a group, orbit `[b g 3]` (azimuth, elevation in degrees,
distance), seen `[b]` whether the network is told the cameras. Captions hold no view
words.
"""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.cameras import camera_numbers, orbit_camera, plucker_rays
from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.hub import StableDiffusion, load_stable_diffusion
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextEncoder
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import FitState, Recipe, fit, read_arrays
from sdsjax.toybox.training.train_prior import snr_weight, vocab_and_merges
from sdsjax.toybox.world.views import FOV_DEG

VIEWS = 4  # views of a set
CHUNK = 64  # pictures that the VAE encodes in one call
COOLED_EMA = 0.99  # a short memory: the falling rate averages by itself


class MultiViewRecipe(NamedTuple):
    """Sizes of the training; start: the toybox-sd to go on from.

    singles, pairs: view sets of each single object and pair in each of `pools` pools,
    which take turns of `pool_steps`; batch: pictures a step; steps, minutes: how long
    in all, whichever comes first (minutes 0: no limit); cooldown: the last share of it;
    bank, bank_steps: so many sets are coloured and encoded at a time, for so many
    steps; group_fraction: share of the batches made of groups, the others are of single
    views; dropout, camera_dropout: share of the groups without caption, and without
    camera; dtype: of the computation.
    """

    singles: int = 20
    pairs: int = 4
    pools: int = 10
    pool_steps: int = 4000
    batch: int = 16
    rate: float = 6e-4
    steps: int = 100_000
    minutes: float = 0.0
    cooldown: float = 0.25
    bank: int = 1024
    bank_steps: int = 1000
    pair_fraction: float = 0.3
    group_fraction: float = 0.7
    dropout: float = 0.1
    camera_dropout: float = 0.05
    code_tokens: int = 4
    code_width: int = 512
    dtype: str = "float32"
    seed: int = 0
    start: str = "toybox-sd"


class Bank(NamedTuple):
    """Encoded view sets: latents [m v h w c] float16; drawn: of each picture of the
    m * v, as `pools.draw` gives it; pool: the one drawn from."""

    latents: np.ndarray
    drawn: pools.Draw
    pool: pools.Pool


def draw_sets(
    pool: pools.Pool, rng: np.random.Generator, count: int, *, pair_fraction: float
) -> pools.Draw:
    """A draw of `count` whole sets, their pictures in a run: same colours and
    background within each."""
    coarse = pool._replace(geometry=pool.geometry[::VIEWS])
    drawn = pools.draw(coarse, rng, count, pair_fraction=pair_fraction)
    repeated = pools.Draw(*(np.repeat(a, VIEWS, axis=0) for a in drawn))
    return repeated._replace(
        row=VIEWS * repeated.row + np.tile(np.arange(VIEWS), count)
    )


def view_conditions(orbit, seen, size: int):
    """orbit [b g 3], seen [b] -> (camera [b g 16], rays [b g size size 6]), zeros for
    the groups that are not told."""

    def of_one(orbit):
        camera = orbit_camera(*orbit, fov=FOV_DEG, width=size, height=size)
        return camera_numbers(camera), plucker_rays(camera)

    camera, rays = jax.vmap(jax.vmap(of_one))(orbit)
    told = seen.astype(camera.dtype)
    return camera * told[:, None, None], rays * told[:, None, None, None, None]


def network_config(start: StableDiffusion, recipe: MultiViewRecipe) -> MultiViewConfig:
    """The network that the recipe trains: the start's UNet and both options."""
    return MultiViewConfig(
        start.unet.config,
        rays=True,
        code_tokens=recipe.code_tokens,
        code_width=recipe.code_width,
    )


def grown(params, within):
    """`within` with every array of `params` in the place of the same path.

    An array that has more input channels there (the first convolution, which sees rays
    too) keeps zeros in the new ones, so that the network begins as it was. ValueError
    for any other difference.
    """
    out: dict[tuple[str, ...], Any] = dict(flatten_dict(within))
    array: Any
    for path, array in flatten_dict(params).items():
        place, name = out.get(path), "/".join(path)
        if place is None:
            raise ValueError(f"{name}: no such place in the larger network")
        more = place.shape[-2] - array.shape[-2] if place.ndim == 4 else 0
        if more > 0:
            array = np.pad(array, ((0, 0), (0, 0), (0, more), (0, 0)))
        if array.shape != place.shape:
            raise ValueError(f"{name}: {array.shape} does not fit {place.shape}")
        out[path] = jnp.asarray(array)
    return unflatten_dict(out)


def initial_params(start: StableDiffusion, recipe: MultiViewRecipe):
    """{"unet", "text_encoder"}: the start's weights, all else new."""
    config = network_config(start, recipe)
    side, channels = config.unet.sample_size, config.unet.in_channels
    shape = (1, 1, side, side)
    variables = MultiViewUNet(config).init(
        jax.random.key(recipe.seed),
        jnp.zeros((*shape, channels)),
        jnp.zeros(1, jnp.int32),
        jnp.zeros((1, 2, config.unet.context)),
        jnp.zeros((1, 1, 16)),
        jnp.zeros((*shape, 6)),
    )
    within = {**variables["params"]}
    within["unet"] = grown(start.unet.params, within["unet"])
    return {"unet": within, "text_encoder": start.text_encoder.params}


def batches(folder: Path, start: StableDiffusion, recipe: MultiViewRecipe, log=print):
    """step -> batch, a pure function; `folder` keeps the pools that it renders.

    The pictures are encoded a bank at a time: each latent is used about bank_steps *
    batch / (4 * bank) times, with other noise each time.
    """
    vae = start.vae
    encode = jax.jit(
        lambda params, x: (
            vae.config.scaling_factor
            * vae.module.apply({"params": params}, x, method="encode")[0]
        )
    )

    def pool_of(index: int) -> pools.Pool:
        return pools.build_pool(
            folder / str(index),
            singles=recipe.singles,
            pairs=recipe.pairs,
            seed=1000 * (recipe.seed + 1) + index,
            views=VIEWS,
            log=log,
        )

    @lru_cache(maxsize=1)
    def bank(index: int) -> Bank:
        turn = index * recipe.bank_steps // recipe.pool_steps
        pool = pool_of(turn % recipe.pools)
        rng = np.random.default_rng([recipe.seed, 4, index])
        drawn = draw_sets(pool, rng, recipe.bank, pair_fraction=recipe.pair_fraction)
        parts = []
        for first in range(0, len(drawn.row), CHUNK):
            part = pools.Draw(*(a[first : first + CHUNK] for a in drawn))
            x = pools.pictures(pool, part)
            parts.append(np.asarray(encode(vae.params, x), np.float16))
        latents = np.concatenate(parts)
        return Bank(latents.reshape(-1, VIEWS, *latents.shape[1:]), drawn, pool)

    def batch_at(step: int):
        rng = np.random.default_rng([recipe.seed, 5, step])
        found = bank(step // recipe.bank_steps)
        grouped = rng.random() < recipe.group_fraction
        count = recipe.batch // (VIEWS if grouped else 1)
        index = rng.integers(0, recipe.bank, count)
        first = rng.integers(0, VIEWS, count)
        views = np.arange(VIEWS) if grouped else first[:, None]
        views = np.broadcast_to(views, (count, VIEWS if grouped else 1))
        picture = VIEWS * index[:, None] + views
        one = pools.Draw(*(a[picture[:, 0]] for a in found.drawn))
        texts = pools.captions(
            found.pool, one, rng, view_fraction=0.0, dropout=recipe.dropout
        )
        rows = found.drawn.row[picture]
        return {
            "z": found.latents[index[:, None], views].astype(np.float32),
            "ids": start.tokenizer(texts),
            "orbit": pools.orbits_of(found.pool)[rows],
            "seen": rng.random(count) >= recipe.camera_dropout,
        }

    return batch_at


def noise_loss(config: MultiViewConfig, start: StableDiffusion, dtype):
    """The loss of a batch: noise prediction weighted by the clipped signal-to-noise
    ratio, one t a group, stratified over the batch."""
    unet = MultiViewUNet(config, dtype)
    text = CLIPTextEncoder(start.text_encoder.config, dtype)
    schedule: NoiseSchedule = start.schedule

    def loss(params, frozen, batch, key):
        del frozen
        z = batch["z"]
        key_t, key_noise = jax.random.split(key)
        count = z.shape[0]
        u = (jnp.arange(count) + jax.random.uniform(key_t, (count,))) / count
        t = jnp.floor(u * schedule.num_steps).astype(jnp.int32)
        eps = jax.random.normal(key_noise, z.shape)
        spread = (slice(None), *(None,) * 4)
        z_t = schedule.alphas[t][spread] * z + schedule.sigmas[t][spread] * eps
        camera, rays = view_conditions(batch["orbit"], batch["seen"], z.shape[2])
        states = text.apply({"params": params["text_encoder"]}, batch["ids"])
        eps_hat: Any = unet.apply(
            {"params": params["unet"]}, z_t, t, states, camera, rays
        )
        square = jnp.mean((eps_hat - eps) ** 2, axis=(1, 2, 3, 4))
        weighted = jnp.mean(snr_weight(schedule, t) * square)
        low, high = square[: count // 4].mean(), square[3 * count // 4 :].mean()
        return weighted, {"mse": square.mean(), "mse_low_t": low, "mse_high_t": high}

    return loss


def train_multiview_unet(
    work: Path, start: StableDiffusion, recipe: MultiViewRecipe, log
) -> FitState:
    """The level stage in `work/unet`, then the cool-down from a copy of it; a
    `cooldown` of 0 leaves the one out, of 1 the other."""
    level, params = work / "unet", initial_params(start, recipe)
    level_steps = round(recipe.steps * (1.0 - recipe.cooldown))
    plan = Recipe(
        noise_loss(network_config(start, recipe), start, jnp.dtype(recipe.dtype)),
        batches(work / "pools", start, recipe, log),
        steps=level_steps,
        peak=recipe.rate,
        cooldown=0.0,
        warmup=100,
        ema_decay=0.9995,
        weight_decay=0.01,
        seed=recipe.seed,
    )
    minutes = recipe.minutes or None

    def stage(folder, plan, share):
        return fit(
            folder,
            plan,
            params,
            minutes=minutes and share * minutes,
            pictures=recipe.batch,
            log=log,
        )

    if recipe.cooldown < 1.0:
        state = stage(level, plan, 1.0 - recipe.cooldown)
        if recipe.cooldown == 0.0:
            return state
    checkpoint = level / "checkpoint.safetensors"
    reached = int(read_arrays(checkpoint)[".step"])
    steps = recipe.steps - level_steps
    if minutes and reached < level_steps + steps:
        seconds = 60.0 * recipe.cooldown * minutes
        steps = max(1, int(seconds / _seconds_per_step(level)))
    folder = work / f"cooldown-{reached}"
    folder.mkdir(exist_ok=True)
    if not (folder / checkpoint.name).exists():
        shutil.copy(checkpoint, folder)
    log(f"cool-down: {steps} steps from {reached}")
    cooled = plan._replace(
        steps=reached + steps,
        cooldown=steps / (reached + steps),
        ema_decay=COOLED_EMA,
    )
    # the steps are planned by the level stage's speed: leave room for a slower hour
    return stage(folder, cooled, 1.5 * recipe.cooldown)


def _seconds_per_step(folder: Path) -> float:
    """The median of the last twenty entries of a fit's log."""
    lines = (folder / "log.jsonl").read_text().splitlines()[-20:]
    return float(np.median([json.loads(line)["seconds_per_step"] for line in lines]))


def write_multiview(
    folder: Path, start: StableDiffusion, config: MultiViewConfig, params
) -> None:
    """Writes the averaged weights as float16: a folder that `hub.load_multiview` reads,
    complete by itself, its VAE the start's."""
    save_stable_diffusion(
        folder,
        unet=(config, params["unet"]),
        vae=(start.vae.config, start.vae.params),
        text_encoder=(start.text_encoder.config, params["text_encoder"]),
        tokenizer=vocab_and_merges(),
    )


def train_multiview(
    work: Path, out: Path, recipe: MultiViewRecipe = MultiViewRecipe(), log=print
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`."""
    start = load_stable_diffusion(recipe.start)
    state = train_multiview_unet(work, start, recipe, log)
    write_multiview(out, start, network_config(start, recipe), state.ema)
    log(f"wrote {out}")
