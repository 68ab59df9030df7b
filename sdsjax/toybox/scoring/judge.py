"""The judge: a small classifier that names what a picture shows.

Trained on true renders alone: the prior never sees it and it never sees the prior.

Input x [b 64 64 3] in [-1, 1]; output: logits of the kind (30), its colour (9), the
base's kind (bases and "none"), the base's colour (colours and "none") and the view
(5, meaningful for kinds with a front).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

from sdsjax.files.atomic import write_text
from sdsjax.models.parameters import Conv, Dense, Module, parameter_shapes
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import Recipe, fit, flat, read_arrays
from sdsjax.toybox.world.captions import caption
from sdsjax.toybox.world.objects import BASES, COLORS, DIRECTED_KINDS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import VIEW_WORDS

FOLDER = Path(__file__).parents[2] / "weights" / "toybox-judge"
KIND_NAMES, COLOR_NAMES = tuple(KINDS), tuple(COLORS)
NONE = len(BASES)  # the base's kind of a single object
NO_COLOR = len(COLOR_NAMES)
WIDTHS = (24, 48, 80, 104)


class Labels(NamedTuple):
    """What a picture shows, [b] int32 each; or, from the network, logits [b n]."""

    kind: Any
    color: Any
    base: Any
    base_color: Any
    view: Any


SIZES = Labels(
    len(KIND_NAMES), len(COLOR_NAMES), NONE + 1, NO_COLOR + 1, len(VIEW_WORDS)
)


def picture_features(x, widths: tuple[int, ...], place: int, hidden: int):
    """Strided residual convolutions, then mean and maximum over space: [b hidden].

    x [b s s 3]; place: width of what is kept of where things are. Called within a
    compact module, whose submodules it makes.
    """
    for i, width in enumerate(widths):
        size = (5, 5) if i == 0 else (3, 3)
        x = Conv(width, size, (2, 2), name=f"down_{i}")(x)
        x = nn.silu(nn.GroupNorm(8, name=f"norm_{i}")(x))
        if i:
            y = Conv(width, (3, 3), name=f"conv_{i}")(x)
            x = x + nn.silu(nn.GroupNorm(8, name=f"inner_{i}")(y))
    grid = x.reshape(x.shape[0], -1)
    pooled = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
    # where things are decides left from right; what they are survives pooling
    features = [pooled, nn.silu(Dense(place, name="place")(grid))]
    return nn.silu(Dense(hidden, name="hidden")(jnp.concatenate(features, axis=-1)))


class Judge(Module):
    """A head a question on the same features of the picture."""

    @nn.compact
    def __call__(self, x) -> Labels:
        hidden = picture_features(x, WIDTHS, 64, 192)
        return Labels(
            *(Dense(n, name=f)(hidden) for f, n in zip(Labels._fields, SIZES))
        )


def labels_of(specs: list[SceneSpec], views) -> Labels:
    """The right answers for captions' specs and view indices [b]."""
    bases = [BASES.index(s.base_kind) if s.base_kind else NONE for s in specs]
    colors = [
        COLOR_NAMES.index(s.base_color) if s.base_kind else NO_COLOR for s in specs
    ]
    return Labels(
        np.asarray([KIND_NAMES.index(s.kind) for s in specs], np.int32),
        np.asarray([COLOR_NAMES.index(s.color) for s in specs], np.int32),
        np.asarray(bases, np.int32),
        np.asarray(colors, np.int32),
        np.asarray(views, np.int32),
    )


def directed(kind: np.ndarray) -> np.ndarray:
    """Which kinds (indices [b]) look different from different sides."""
    return np.isin(kind, [KIND_NAMES.index(k) for k in DIRECTED_KINDS])


def roughen(x, key):
    """Noise, softness and contrast, so that the judge does not lean on crispness."""
    key_noise, key_level, key_soft, key_gain = jax.random.split(key, 4)
    count = x.shape[0]
    lead = (count, 1, 1, 1)
    smooth = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
    mix = jax.random.uniform(key_soft, lead)
    x = x + mix * (smooth - x)
    x = x * jax.random.uniform(key_gain, lead, minval=0.92, maxval=1.05)
    level = 0.08 * jax.random.uniform(key_level, lead)
    return x + level * jax.random.normal(key_noise, x.shape)


def train_judge(
    folder: Path, pool: pools.Pool, *, steps: int, seed: int = 7, log=print
):
    """Trains on true renders; returns the averaged parameters."""
    module, batch, pair_fraction = Judge(), 64, 0.35

    def batch_at(step: int):
        rng = np.random.default_rng([seed, 4, step])
        chosen = pools.draw(pool, rng, batch, pair_fraction=pair_fraction)
        answers = labels_of(pools.specs(pool, chosen), pool.view[chosen.row])
        return pools.pictures(pool, chosen), answers, directed(answers.kind)

    def loss(params, frozen, given, key):
        del frozen
        x, answers, has_front = given
        logits: Any = module.apply({"params": params}, roughen(x, key))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        parts = [jnp.mean(entropy(a, b)) for a, b in zip(logits[:4], answers[:4])]
        view = jnp.mean(entropy(logits.view, answers.view) * has_front)
        right = jnp.mean(jnp.argmax(logits.kind, -1) == answers.kind)
        seen = jnp.argmax(logits.view, -1) == answers.view
        view_right = jnp.sum(seen * has_front) / jnp.maximum(jnp.sum(has_front), 1)
        return sum(parts) + view, {"kind": right, "view": view_right}

    init = module.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))["params"]
    recipe = Recipe(loss, batch_at, steps, 2e-3, 0.5, 200, 0.998, 0.02, seed)
    return fit(folder / "judge", recipe, init, log=log).ema


def save_network(params, folder: Path, card: dict) -> None:
    """Writes a network's parameters as float16 safetensors, `card` as config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {k: np.asarray(v, np.float16) for k, v in flat(params).items()}
    save_file(arrays, str(folder / "model.safetensors"))
    write_text(folder / "config.json", json.dumps(card, indent=1) + "\n")


def load_network(module: nn.Module, folder: Path):
    """Reads what `save_network` wrote for a module of pictures x [b 64 64 3].

    Raises ValueError if the file is missing, damaged or does not fit the network.
    """
    shapes = parameter_shapes(module, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    found = read_arrays(folder / "model.safetensors")
    wanted = flat(shapes)
    if {k: v.shape for k, v in found.items()} != {
        k: v.shape for k, v in wanted.items()
    }:
        raise ValueError(f"{folder}: the weights do not fit {type(module).__name__}")
    # widened here: on the device it takes a program for every shape
    leaves = [np.asarray(found[name], np.float32) for name in wanted]
    return jax.device_put(jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def save_judge(params, folder: Path = FOLDER, card: dict | None = None) -> None:
    """Writes the judge's parameters, and what was measured."""
    known = {"widths": WIDTHS, "kinds": KIND_NAMES}
    save_network(params, folder, known | (card or {}))


def load_judge(folder: Path = FOLDER):
    """The shipped judge: x [b 64 64 3] -> Labels of indices [b], jitted.

    Raises ValueError if the file is missing, damaged or does not fit the network.
    """
    module, params = Judge(), load_network(Judge(), folder)

    @jax.jit
    def judge(params, x) -> Labels:
        logits: Any = module.apply({"params": params}, x)
        return Labels(*(jnp.argmax(part, axis=-1) for part in logits))

    return lambda x: Labels(*(np.asarray(a) for a in judge(params, x)))


def agreement(said: Labels, true: Labels) -> dict[str, float | None]:
    """Counts how often a judge's answers are right, as shares by name.

    kind, color: of single objects; view: of those whose kind has a front; pair: kind,
    base and both colours right at once. None where there is nothing to share. Besides,
    how many pictures each is of: singles, directed, pairs.
    """
    front, paired = directed(true.kind), true.base != NONE
    all_right = (
        (said.kind == true.kind)
        & (said.color == true.color)
        & (said.base == true.base)
        & (said.base_color == true.base_color)
    )

    def share(right, among):
        return float(np.mean(right[among])) if among.any() else None

    single = ~paired
    return {
        "kind": share(said.kind == true.kind, single),
        "color": share(said.color == true.color, single),
        "view": share(said.view == true.view, front & single),
        "pair": share(all_right, paired),
        "singles": int(single.sum()),
        "directed": int((front & single).sum()),
        "pairs": int(paired.sum()),
    }


def prompts_to_judge(count: int, pair_fraction: float, seed: int):
    """Random captions with view words: (texts, Labels).

    Overhead is a tenth, as in training; wording 0.
    """
    rng = np.random.default_rng([seed, 5])
    specs, views = [], []
    for _ in range(count):
        kind = KIND_NAMES[rng.integers(len(KIND_NAMES))]
        color, other = rng.choice(COLOR_NAMES, 2, replace=False)
        base = BASES[rng.integers(len(BASES))] if rng.random() < pair_fraction else None
        specs.append(SceneSpec(kind, str(color), base, str(other) if base else None))
        views.append(int(rng.choice(5, p=[0.225] * 4 + [0.1])))
    texts = [caption(spec, view) for spec, view in zip(specs, views)]
    return texts, labels_of(specs, views)
