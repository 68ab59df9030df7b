"""The recipe of `toybox-flow`: a miniature Stable Diffusion 3 on toybox-sd's latents.

Flow matching (arXiv 2403.03206): z_s = (1 - s) z + s eps, the transformer is told 1000
s and predicts v = eps - z, the loss is the plain square, s uniform over the schedule.
Two small CLIPs with projection are trained with it; there is no T5 and none of its
tokens. Pictures, captions and their dropout are those of `train_prior`, and so are
checkpoints: a run stopped continues. The VAE is read and stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.loading.sd3.save import save_stable_diffusion3
from sdsjax.models.mmdit import MMDiT, MMDiTConfig, Text, position_table
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig, CLIPTextProjection
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import FitState, Recipe, fit
from sdsjax.toybox.training.train_prior import (
    POSITIONS,
    captioned_batches,
    stratified_times,
    text_config,
    vocab_and_merges,
    word_tokenizer,
)

CLIP_WIDTH = 64
TRANSFORMER = MMDiTConfig(
    in_channels=4,
    out_channels=4,
    patch=2,
    layers=5,
    heads=4,
    head_width=32,
    context=2 * CLIP_WIDTH,
    pooled=2 * CLIP_WIDTH,
    positions=8,
    sample_size=16,
    dual=(0,),
    qk_norm=True,
)
TABLE = "pos_embed"  # no parameter of the training


class FlowRecipe(NamedTuple):
    """Sizes of the training; vae: the folder or name of the prior whose VAE is taken.

    The defaults are those of the embedded toybox-flow's first milestone.
    """

    singles: int = 600
    pairs: int = 120
    steps: int = 7_000
    batch: int = 32
    rate: float = 8e-4
    shift: float = 1.0
    pair_fraction: float = 0.3
    view_fraction: float = 0.85
    dropout: float = 0.1
    seed: int = 0
    vae: str = "toybox-sd"


def clip_config(tokenizer) -> CLIPProjectionConfig:
    """The sizes of either text encoder, for a tokenizer's vocabulary."""
    text = text_config(tokenizer)._replace(
        hidden=CLIP_WIDTH, mlp=2 * CLIP_WIDTH, layers=2, heads=2
    )
    return CLIPProjectionConfig(text, CLIP_WIDTH, text.vocab_size - 1)


def initial_params(seed: int) -> dict[str, Any]:
    """The parameters that the training begins with."""
    keys = jax.random.split(jax.random.key(seed + 1), 3)
    transformer, text = MMDiT(TRANSFORMER), _text_encoder()
    side, ids = TRANSFORMER.sample_size, jnp.zeros((1, POSITIONS), jnp.int32)
    told = Text(
        jnp.zeros((1, POSITIONS, TRANSFORMER.context)),
        jnp.zeros((1, TRANSFORMER.pooled)),
    )
    z = jnp.zeros((1, side, side, TRANSFORMER.in_channels))
    drawn = transformer.init(keys[0], z, jnp.zeros(1), told)["params"]
    return {
        "transformer": {k: v for k, v in drawn.items() if k != TABLE},
        "text_encoder": text.init(keys[1], ids)["params"],
        "text_encoder_2": text.init(keys[2], ids)["params"],
    }


def _text_encoder() -> CLIPTextProjection:
    return CLIPTextProjection(clip_config(word_tokenizer()))


def told_of(params, ids) -> Text:
    """What the transformer is told of token ids [b n] by both text encoders."""
    encoder, states, pooled = _text_encoder(), [], []
    for name in ("text_encoder", "text_encoder_2"):
        each, projected = encoder.apply({"params": params[name]}, ids)
        states.append(each)
        pooled.append(projected)
    return Text(jnp.concatenate(states, -1), jnp.concatenate(pooled, -1))


def flow_loss(vae: hub.Network, schedule: NoiseSchedule):
    """Makes the loss |v - (eps - z)|^2 of a batch of pictures and token ids."""
    transformer = MMDiT(TRANSFORMER)

    def loss(params, frozen, batch, key):
        x, ids = batch
        mean, _ = vae.module.apply({"params": frozen}, x, method="encode")
        z = jax.lax.stop_gradient(vae.config.to_latents(mean))
        key_t, key_noise = jax.random.split(key)
        count = z.shape[0]
        t = stratified_times(key_t, count, schedule.num_steps)
        eps = jax.random.normal(key_noise, z.shape)
        spread = (slice(None), None, None, None)
        z_s = schedule.alphas[t][spread] * z + schedule.sigmas[t][spread] * eps
        own = {**params["transformer"], TABLE: position_table(TRANSFORMER)}
        times, told = schedule.network_time(t), told_of(params, ids)
        v: Any = transformer.apply({"params": own}, z_s, times, told)
        square = jnp.mean((v - (eps - z)) ** 2, axis=(1, 2, 3))
        low, high = square[: count // 4].mean(), square[3 * count // 4 :].mean()
        return square.mean(), {"mse_low_s": low, "mse_high_s": high}

    return loss


def train_transformer(
    folder: Path, pool: pools.Pool, vae: hub.Network, recipe: FlowRecipe, log
) -> FitState:
    """Trains the transformer and both text encoders on the frozen VAE's latents."""
    schedule = NoiseSchedule.flow_matching(shift=recipe.shift)
    plan = Recipe(
        flow_loss(vae, schedule),
        captioned_batches(pool, recipe, word_tokenizer(), recipe.batch),
        recipe.steps,
        recipe.rate,
        cooldown=0.4,
        warmup=300,
        ema_decay=0.9995,
        seed=recipe.seed,
    )
    start = initial_params(recipe.seed)
    return fit(folder / "transformer", plan, start, vae.params, log=log)


def write_flow(folder: Path, vae: hub.Network, shift: float, params) -> None:
    """Writes the averaged weights as float16 in Stable Diffusion 3's folder layout."""
    own = {**params["transformer"], TABLE: position_table(TRANSFORMER)}
    config = clip_config(word_tokenizer())
    save_stable_diffusion3(
        folder,
        transformer=(TRANSFORMER, own),
        vae=(vae.config, vae.params),
        text_encoders=(
            (config, params["text_encoder"]),
            (config, params["text_encoder_2"]),
        ),
        tokenizer=vocab_and_merges(),
        shift=shift,
    )


def train_flow(
    work: Path, out: Path, recipe: FlowRecipe = FlowRecipe(), log=print
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`.

    Raises ValueError if the VAE's latents are not those that the transformer takes.
    """
    vae = hub.load_component(recipe.vae, "vae")
    latents = 64 // vae.config.factor, vae.config.latent_channels
    if latents != (TRANSFORMER.sample_size, TRANSFORMER.in_channels):
        raise ValueError(
            f"{recipe.vae}: its VAE's latents of a 64-pixel picture are {latents[0]} a "
            f"side with {latents[1]} channels; the recipe takes "
            f"{TRANSFORMER.sample_size} and {TRANSFORMER.in_channels}, as toybox-sd has"
        )
    pool = pools.build_pool(
        work / "pool",
        singles=recipe.singles,
        pairs=recipe.pairs,
        seed=recipe.seed,
        log=log,
    )
    state = train_transformer(work, pool, vae, recipe, log)
    write_flow(out, vae, recipe.shift, state.ema)
    log(f"wrote {out}")
