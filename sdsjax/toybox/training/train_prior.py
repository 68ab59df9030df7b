"""The recipe of `toybox-sd`: pictures -> VAE -> text encoder and UNet -> a folder.

Stages, each resumable: the pool of pictures (pool.py), the AutoencoderKL on them, then
the UNet2DCondition with its text encoder on the frozen latents, by the noise
prediction loss weighted by a clipped signal-to-noise ratio, caption dropout and an
exponential moving average, whose weights are written in Stable Diffusion's layout.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.hub import StableDiffusion, load_stable_diffusion
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig, CLIPTextEncoder
from sdsjax.models.text_encoders.clip_tokenizer import (
    Tokenizer,
    train_word_tokenizer,
)
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.models.vae import AutoencoderKL, VAEConfig
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import FitState, Recipe, fit
from sdsjax.toybox.world.captions import vocabulary

POSITIONS = 24  # tokens of a caption, start and end included
VAE = VAEConfig(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    channels=(16, 32, 64),
    layers=1,
    groups=8,
    scaling_factor=1.0,
    sample_size=64,
)
UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(48, 96, 112),
    heads=(2, 3, 4),
    down_attention=(False, True, True),
    up_attention=(True, True, False),
    layers=1,
    groups=16,
    epsilon=1e-5,
    context=128,
    linear_projection=True,
    sample_size=16,
)


class PriorRecipe(NamedTuple):
    """Sizes of the training; start: a prior to train on from, "" for random weights.

    The defaults have never been run in one go. They are about as long as the training
    of the weights that are shipped, which came in two parts: 2000 steps of the VAE
    (rate 1.5e-3) and 5000 of the UNet with min-SNR weights; then, from those, seed 1,
    4000 (1e-3) and 6100. Each part was stopped and continued; the last cool-down began
    by a plan of 8500 and of 7000 steps.
    """

    singles: int = 600
    pairs: int = 120
    vae_steps: int = 6000
    vae_batch: int = 16
    vae_rate: float = 1.2e-3
    unet_steps: int = 11_000
    unet_batch: int = 32
    unet_rate: float = 8e-4
    pair_fraction: float = 0.3
    view_fraction: float = 0.85
    dropout: float = 0.1
    seed: int = 0
    start: str = ""


def starting_weights(recipe: PriorRecipe) -> StableDiffusion | None:
    """The networks of the prior to go on from (a folder or a name), None to begin anew.

    Raises ValueError if they are of other sizes than the recipe's.
    """
    if not recipe.start:
        return None
    networks = load_stable_diffusion(recipe.start)
    sizes = (networks.unet.config, networks.vae.config._replace(scaling_factor=1.0))
    if sizes != (UNET, VAE):
        raise ValueError(
            f"{recipe.start} has networks of other sizes than the recipe trains: start "
            "from a toybox-sd or leave --start out"
        )
    return networks


def _rng(recipe, stage: int, step: int) -> np.random.Generator:
    return np.random.default_rng([recipe.seed, stage, step])


def train_vae(
    folder: Path,
    pool: pools.Pool,
    start: StableDiffusion | None,
    recipe: PriorRecipe,
    log,
) -> FitState:
    """Trains the AutoencoderKL, from the weights of `start` if there are any.

    |x - D(z)| + (x - D(z))^2 and a slight pull of q(z|x) to N(0, I), z drawn from q.
    """
    module: Any = AutoencoderKL(VAE)
    encode: Any = partial(module.apply, method="encode")

    def batch_at(step: int):
        rng = _rng(recipe, 1, step)
        chosen = pools.draw(
            pool, rng, recipe.vae_batch, pair_fraction=recipe.pair_fraction
        )
        return pools.pictures(pool, chosen)

    def loss(params, frozen, x, key):
        del frozen
        variables = {"params": params}
        mean, logvar = encode(variables, x)
        eps = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(0.5 * logvar) * eps
        error = module.apply(variables, z, method="decode") - x
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        square = jnp.mean(error**2)
        total = jnp.mean(jnp.abs(error)) + square + 1e-3 * divergence
        return total, {"mse": square, "kl": divergence}

    if start:
        init = start.vae.params
    else:
        key = jax.random.key(recipe.seed)
        init = module.init(key, jnp.zeros((1, 64, 64, 3)))["params"]
    return fit(
        folder / "vae",
        Recipe(
            loss, batch_at, recipe.vae_steps, recipe.vae_rate, 0.35, 100, 0.998, 0.0,
            recipe.seed,
        ),
        init,
        log=log,
    )  # fmt: skip


def latent_scale(pool: pools.Pool, vae_params, recipe: PriorRecipe) -> float:
    """Measures the VAE's scaling factor, 1 / std of its latents.

    Over the means of 512 pictures, all channels together.
    """
    rng = _rng(recipe, 2, 0)
    chosen = pools.draw(pool, rng, 512, pair_fraction=recipe.pair_fraction)
    x = pools.pictures(pool, chosen)
    module = AutoencoderKL(VAE)
    encode = jax.jit(lambda x: module.apply({"params": vae_params}, x, method="encode"))
    means = [np.asarray(encode(part)[0]) for part in np.split(x, 8)]
    return float(1.0 / np.concatenate(means).std())


def word_tokenizer() -> Tokenizer:
    """The toybox's tokenizer: every word of its vocabulary is one token ("3d" two)."""
    return Tokenizer(*vocab_and_merges(), POSITIONS)


def vocab_and_merges():
    """The toybox's tokenizer as `save_stable_diffusion` takes it."""
    return train_word_tokenizer([word for word in vocabulary() if word.isalpha()])


def text_config(tokenizer: Tokenizer) -> CLIPTextConfig:
    """The sizes of toybox-sd's text encoder, for a tokenizer's vocabulary."""
    return CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        hidden=128,
        mlp=256,
        layers=3,
        heads=4,
        positions=POSITIONS,
        activation="gelu",
        epsilon=1e-5,
    )


def snr_weight(
    schedule: NoiseSchedule, t: jax.Array, floor: float = 0.1, gamma: float = 5.0
):
    """The weight clip(SNR, floor, gamma) / SNR of a loss in noise, at times t.

    The upper limit is min-SNR's (arXiv 2303.09556, sec. 3.4). The lower one is ours:
    what the view words decide is decided at high noise, which min-SNR hardly counts.
    """
    snr = (schedule.alphas[t] / schedule.sigmas[t]) ** 2
    return jnp.clip(snr, floor, gamma) / snr


def _initial_params(start: StableDiffusion | None, unet, text, seed: int):
    # the parameters that train_unet begins with
    if start:
        return {"unet": start.unet.params, "text_encoder": start.text_encoder.params}
    key_unet, key_text = jax.random.split(jax.random.key(seed + 1))
    ids = jnp.zeros((1, POSITIONS), jnp.int32)
    states = jnp.zeros((1, POSITIONS, UNET.context))
    latents = jnp.zeros((1, 16, 16, 4))
    return {
        "unet": unet.init(key_unet, latents, jnp.zeros(1, jnp.int32), states)["params"],
        "text_encoder": text.init(key_text, ids)["params"],
    }


def captioned_batches(pool: pools.Pool, recipe, tokenizer: Tokenizer, count: int):
    """Makes step -> (pictures x [count ...], token ids), a pure function of the step.

    recipe: what has pair_fraction, view_fraction, dropout and seed.
    """

    def batch_at(step: int):
        rng = _rng(recipe, 3, step)
        chosen = pools.draw(pool, rng, count, pair_fraction=recipe.pair_fraction)
        texts = pools.captions(
            pool, chosen, rng, view_fraction=recipe.view_fraction,
            dropout=recipe.dropout,
        )  # fmt: skip
        return pools.pictures(pool, chosen), tokenizer(texts)

    return batch_at


def stratified_times(key: jax.Array, count: int, total: int) -> jax.Array:
    """Draws times [count] in 0..total - 1, one a stratum.

    A loss then varies less than with independent draws.
    """
    u = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count
    return jnp.floor(u * total).astype(jnp.int32)


def train_unet(
    folder: Path,
    pool: pools.Pool,
    vae_params,
    scale: float,
    start: StableDiffusion | None,
    recipe: PriorRecipe,
    log,
) -> FitState:
    """The UNet and its text encoder together, on the frozen VAE's latent means."""
    tokenizer = word_tokenizer()
    vae, unet = AutoencoderKL(VAE), UNet2DCondition(UNET)
    text = CLIPTextEncoder(text_config(tokenizer))
    schedule = NoiseSchedule.scaled_linear()

    batch_at = captioned_batches(pool, recipe, tokenizer, recipe.unet_batch)

    def loss(params, frozen, batch, key):
        x, ids = batch
        z = scale * vae.apply({"params": frozen}, x, method="encode")[0]
        z = jax.lax.stop_gradient(z)
        key_t, key_noise = jax.random.split(key)
        count = z.shape[0]
        t = stratified_times(key_t, count, schedule.num_steps)
        eps = jax.random.normal(key_noise, z.shape)
        alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
        spread = (slice(None), None, None, None)
        z_t = alpha[spread] * z + sigma[spread] * eps
        states = text.apply({"params": params["text_encoder"]}, ids)
        eps_hat: Any = unet.apply({"params": params["unet"]}, z_t, t, states)
        square = jnp.mean((eps_hat - eps) ** 2, axis=(1, 2, 3))
        weighted = jnp.mean(snr_weight(schedule, t) * square)
        low, high = square[: count // 4].mean(), square[3 * count // 4 :].mean()
        return weighted, {"mse": square.mean(), "mse_low_t": low, "mse_high_t": high}

    return fit(
        folder / "unet",
        Recipe(
            loss, batch_at, recipe.unet_steps, recipe.unet_rate, 0.4, 300, 0.9995,
            0.01, recipe.seed,
        ),
        _initial_params(start, unet, text, recipe.seed),
        vae_params,
        log=log,
    )  # fmt: skip


def write_prior(folder: Path, vae_params, scale: float, params) -> None:
    """Writes the averaged weights as float16 in Stable Diffusion's folder layout."""
    tokenizer = word_tokenizer()
    save_stable_diffusion(
        folder,
        unet=(UNET, params["unet"]),
        vae=(VAE._replace(scaling_factor=scale), vae_params),
        text_encoder=(text_config(tokenizer), params["text_encoder"]),
        tokenizer=vocab_and_merges(),
    )


def train_prior(
    work: Path, out: Path, recipe: PriorRecipe = PriorRecipe(), log=print
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`."""
    start = starting_weights(recipe)
    pool = pools.build_pool(
        work / "pool",
        singles=recipe.singles,
        pairs=recipe.pairs,
        seed=recipe.seed,
        log=log,
    )
    vae = train_vae(work, pool, start, recipe, log).ema
    scale = latent_scale(pool, vae, recipe)
    log(f"latents: scaling factor {scale:.4f}")
    state = train_unet(work, pool, vae, scale, start, recipe, log)
    write_prior(out, vae, scale, state.ema)
    log(f"wrote {out}")
