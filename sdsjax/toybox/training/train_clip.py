"""The recipe of `toybox-clip`: how far a picture is from a caption.

CLIP's two towers at 64x64, trained from scratch by its contrast (arXiv 2103.00020, sec.
2.3) in both directions. Beside every true caption stand three that are wrong by one
word (contrasts.py), so that colours and views count as much as kinds; texts that are
true of a picture by chance are left out of its contrast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.loading.save_vision import save_companion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import (
    Tokenizer,
    train_word_tokenizer,
)
from sdsjax.models.vision.clip_scorer import CLIP, CLIPConfig, CLIPVisionConfig, prepare
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.degrade import early_render
from sdsjax.toybox.training.fit import FitState, Recipe, fit
from sdsjax.toybox.world.captions import caption, vocabulary
from sdsjax.toybox.world.contrasts import ASPECTS, Said, truth, wrong

POSITIONS = 24  # tokens of a caption, start and end included
STRENGTH = 0.4  # of degrade.early_render: results, not first steps, are to be scored
SIDE = 64
LOGIT_SCALE = 2.6592  # log(1 / 0.07), where CLIP's training begins
MAX_LOGIT_SCALE = 4.6052  # log 100, where it is clipped


class ClipRecipe(NamedTuple):
    """Sizes of the training."""

    singles: int = 240
    pairs: int = 40
    steps: int = 2000
    batch: int = 64
    rate: float = 1.5e-3
    pair_fraction: float = 0.35
    view_fraction: float = 0.85
    seed: int = 0


def vocab_and_merges():
    """Of the toybox's word tokenizer: every word of its vocabulary is one token."""
    return train_word_tokenizer([word for word in vocabulary() if word.isalpha()])


def clip_config(tokenizer: Tokenizer) -> CLIPConfig:
    """The sizes of toybox-clip, both towers, for a tokenizer's vocabulary."""
    return CLIPConfig(
        text=CLIPTextConfig(
            vocab_size=tokenizer.vocab_size,
            hidden=64,
            mlp=128,
            layers=2,
            heads=4,
            positions=POSITIONS,
            activation="gelu",
            epsilon=1e-5,
        ),
        vision=CLIPVisionConfig(
            hidden=96,
            mlp=256,
            layers=3,
            heads=4,
            image_size=SIDE,
            patch=8,
            in_channels=3,
            activation="gelu",
            epsilon=1e-5,
        ),
        projection=64,
        end_id=tokenizer.end_id,
    )


def contrast_loss(cosines, logit_scale, true):
    """The contrastive loss of pictures and texts: (total, parts).

    Of cosines `[b m]` between b pictures and m texts, of which the i-th is the i-th
    picture's own; true `[b m]` bool: what does not count as wrong. Half the
    cross-entropy of each picture's text among all, half that of each own text's picture
    among all.
    """
    count = cosines.shape[0]
    own = jnp.arange(count)
    scale = jnp.exp(jnp.minimum(logit_scale, MAX_LOGIT_SCALE))
    left_out = true.at[own, own].set(False)
    logits = jnp.where(left_out, -jnp.inf, scale * cosines)
    to_text = jax.nn.log_softmax(logits, axis=1)[own, own]
    to_picture = jax.nn.log_softmax(logits[:, :count], axis=0)[own, own]
    right = jnp.mean(jnp.argmax(logits, axis=1) == own)
    total = -0.5 * (to_text.mean() + to_picture.mean())
    return total, {"right": right, "scale": scale}


def captioned(pool: pools.Pool, rng, recipe: ClipRecipe):
    """A batch of pictures with their texts, and which texts are true of which.

    (pictures [b s s 3], backgrounds [b 3], texts, true [b m]); the first b texts are
    the pictures' own, then come one wrong by each aspect, "" where there is none.
    """
    chosen = pools.draw(pool, rng, recipe.batch, pair_fraction=recipe.pair_fraction)
    views = pool.view[chosen.row]
    shown = [Said(s, int(v)) for s, v in zip(pools.specs(pool, chosen), views)]
    named = rng.random(recipe.batch) < recipe.view_fraction
    said = [s if name else s._replace(view=None) for s, name in zip(shown, named)]
    every: list[Said | None] = [*said]
    for aspect in ASPECTS:
        every += [wrong(rng, s, aspect) for s in said]
    wording = rng.integers(0, 16, len(every))
    texts = [caption(*s, int(w)) if s else "" for s, w in zip(every, wording)]
    true = truth(shown, every) | np.asarray([s is None for s in every])
    return pools.pictures(pool, chosen), chosen.background, texts, true


def train_scorer(
    folder: Path, pool: pools.Pool, recipe: ClipRecipe, log=print
) -> FitState:
    """Trains both towers into `folder/clip`, from what is there."""
    tokenizer = Tokenizer(*vocab_and_merges(), POSITIONS)
    module = CLIP(clip_config(tokenizer))

    def batch_at(step: int):
        rng = np.random.default_rng([recipe.seed, 10, step])
        x, background, texts, true = captioned(pool, rng, recipe)
        return x, background, tokenizer(texts), true

    def loss(params, frozen, batch, key):
        del frozen
        x, background, ids, true = batch
        rgb = 0.5 * early_render(key, x, background, STRENGTH) + 0.5
        cosines: Any = module.apply({"params": params}, prepare(rgb, SIDE), ids)
        return contrast_loss(cosines, params["logit_scale"], true)

    inputs = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, POSITIONS), jnp.int32)
    params: Any = module.init(jax.random.key(recipe.seed), *inputs)["params"]
    params = params | {"logit_scale": jnp.float32(LOGIT_SCALE)}
    plan = Recipe(
        loss, batch_at, recipe.steps, recipe.rate, 0.4, 100, 0.998, 0.01, recipe.seed
    )
    return fit(folder / "clip", plan, params, log=log)


def write_scorer(folder: Path, params) -> None:
    """Writes the averaged weights as float16 in CLIP's flat folder layout."""
    files = vocab_and_merges()
    config = clip_config(Tokenizer(*files, POSITIONS))
    save_companion(folder, "clip_scorer", config, params, files)


def train_clip(
    work: Path, out: Path, recipe: ClipRecipe = ClipRecipe(), log=print
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`."""
    pool = pools.build_pool(
        work / "pool",
        singles=recipe.singles,
        pairs=recipe.pairs,
        seed=recipe.seed,
        surfaces=True,  # as train_depth builds it, so that one pool serves both
        log=log,
    )
    write_scorer(out, train_scorer(work, pool, recipe, log).ema)
    log(f"wrote {out}")
