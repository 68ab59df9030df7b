"""The error of a trained prior's score against the exact one, by t; see README.md.

    python experiments/prior_error/run.py                   # toybox-sd, 4 captions
    python experiments/prior_error/run.py --full            # 24 captions
    python experiments/prior_error/run.py --full --multiview FOLDER      # beside it
    python experiments/prior_error/run.py --full --multiview WORK/unet   # a checkpoint

`--multiview` takes a folder of weights, a built-in name, or the folder of a training
that is under way, of which the moving average is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.loading import hub
from sdsjax.toybox.training.fit import load_ema
from sdsjax.toybox.training.train_multiview import (
    MultiViewRecipe,
    initial_params,
    network_config,
    view_conditions,
)
from sdsjax.toybox.world.captions import caption, pair_split, parse_caption
from sdsjax.toybox.world.objects import COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.toybox.world.views import draw_orbit, spread_azimuths, view_index

HERE = Path(__file__).resolve().parent
TIMES = (300, 500, 700, 900)
VIEWS = 4
WIDTH = 0.05  # standard deviation of the exact prior about the true latent
SEED = 77  # of captions, cameras, backgrounds and noises: no training uses it
Predict = Callable[..., jax.Array]  # (z_t [noises v h w c], t) -> eps_hat


class Plan(NamedTuple):
    """captions: how many, a third of them two objects; noises a view and timestep."""

    captions: int
    noises: int


SMALL, FULL = Plan(4, 4), Plan(24, 8)


class Case(NamedTuple):
    """A caption's set of views: its text, the latents z [v h w c] of its true renders,
    orbit [v 3]."""

    text: str
    z: np.ndarray
    orbit: np.ndarray


def held_out_specs(count: int, rng: np.random.Generator) -> list[SceneSpec]:
    """Single objects of kinds that differ, and pairs that no training has seen."""
    kinds, colors = list(KINDS), list(COLORS)
    pairs, unseen = count // 3, pair_split()[1]
    singles = [
        SceneSpec(kinds[k], colors[rng.integers(len(colors))])
        for k in rng.permutation(len(kinds))[: count - pairs]
    ]
    return singles + [unseen[i] for i in rng.permutation(len(unseen))[:pairs]]


def cases(specs: list[SceneSpec], vae: hub.Network) -> list[Case]:
    """A set of four views a spec, cameras as in training, any flat background."""
    rng = np.random.default_rng(SEED)
    encode: Any = jax.jit(
        lambda p, x: vae.module.apply({"params": p}, x, method="encode")
    )
    keys = jax.random.split(jax.random.key(SEED), len(specs))
    out = []
    for spec, key in zip(specs, keys, strict=True):
        azimuth, *rest = draw_orbit(key)
        turned = spread_azimuths(azimuth, VIEWS)
        orbit = np.asarray(
            jnp.stack([turned, *(jnp.full(VIEWS, a) for a in rest)], axis=-1)
        )
        x = render_specs([spec] * VIEWS, orbit, background=tuple(rng.random(3)))
        z = vae.config.scaling_factor * encode(vae.params, 2.0 * x - 1.0)[0]
        out.append(Case(caption(spec), np.asarray(z), orbit))
    return out


def exact_noise(schedule, z, z_t, t):
    """eps of the posterior mean where the prior is N(z, WIDTH^2 I)."""
    alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
    return sigma * (z_t - alpha * z) / (alpha**2 * WIDTH**2 + sigma**2)


def errors(predict: Predict, case: Case, schedule, noises: int) -> np.ndarray:
    """[times 2]: the squared bias and the variance of eps_hat - eps_exact a number of
    the latent, without the bias's own bias (variance / noises)."""

    def at(t, key):
        eps = jax.random.normal(key, (noises, *case.z.shape))
        z_t = schedule.alphas[t] * case.z + schedule.sigmas[t] * eps
        difference = predict(z_t, t) - exact_noise(schedule, case.z, z_t, t)
        variance = jnp.var(difference, axis=0, ddof=1).mean()
        square = jnp.mean(difference.mean(axis=0) ** 2)
        return jnp.stack([square - variance / noises, variance])

    keys = jax.random.split(jax.random.key(SEED), len(TIMES))
    return np.stack(
        [np.asarray(at(t, key)) for t, key in zip(TIMES, keys, strict=True)]
    )


def view_words(networks: hub.StableDiffusion):
    """A case -> predict of toybox-sd, told each view by its words."""
    text, unet = networks.text_encoder, networks.unet

    @jax.jit
    def run(params, states, z_t, t):
        count = z_t.shape[0]
        flat = z_t.reshape(-1, *z_t.shape[2:])
        told = jnp.tile(states, (count, 1, 1))
        out: Any = unet.module.apply(
            {"params": params}, flat, jnp.full(len(flat), t), told
        )
        return out.reshape(z_t.shape)

    def of(case: Case):
        spec = parse_caption(case.text)[0]
        azimuth, elevation, _ = jnp.asarray(case.orbit).T
        seen = view_index(azimuth, elevation)
        ids = networks.tokenizer([caption(spec, int(view)) for view in seen])
        states: Any = text.module.apply({"params": text.params}, ids)
        return lambda z_t, t: run(unet.params, states, z_t, t)

    return of


def cameras(networks: hub.StableDiffusion, group: int, turn: float = 0.0):
    """A case -> predict of a multi-view prior, told the cameras, `group` views in a
    call; turn: degrees by which the azimuths it is told are wrong."""
    text, unet = networks.text_encoder, networks.unet

    @jax.jit
    def run(params, ids, orbit, z_t, t):
        states: Any = text.module.apply({"params": params["text_encoder"]}, ids)
        calls = z_t.size // (group * z_t[0, 0].size)
        z = z_t.reshape(calls, group, *z_t.shape[2:])
        told = jnp.tile(orbit, (z_t.shape[0], 1)).reshape(calls, group, 3)
        camera, rays = view_conditions(told, jnp.ones(calls, bool), z.shape[2])
        out: Any = unet.module.apply(
            {"params": params["unet"]}, z, jnp.full(calls, t),
            jnp.tile(states, (calls, 1, 1)), camera, rays if unet.config.rays else None,
        )  # fmt: skip
        return out.reshape(z_t.shape)

    params = {"unet": unet.params, "text_encoder": text.params}

    def of(case: Case):
        ids = networks.tokenizer([case.text])
        orbit = case.orbit + np.array([turn, 0.0, 0.0])
        return lambda z_t, t: run(params, ids, orbit, z_t, t)

    return of


def load_multiview(where: str) -> hub.StableDiffusion:
    """A folder's networks, or those of a training's folder (its moving average)."""
    checkpoint = Path(where) / "checkpoint.safetensors"
    if not checkpoint.exists():
        return hub.load_multiview(where)
    recipe = MultiViewRecipe()
    start = hub.load_stable_diffusion(recipe.start)
    params = load_ema(checkpoint, initial_params(start, recipe))
    config = network_config(start, recipe)
    unet = hub.Network(hub.MultiViewUNet(config), params["unet"], config)
    text = start.text_encoder._replace(params=params["text_encoder"])
    return start._replace(unet=unet, text_encoder=text)


def measure(of, sets: list[Case], schedule, noises: int) -> np.ndarray:
    """[captions times 2] of `errors`."""
    return np.stack([errors(of(case), case, schedule, noises) for case in sets])


def table(found: dict[str, np.ndarray]) -> str:
    """Mean square = bias + variance, each +- its standard error over captions."""
    head = ["prior", "t", "mean square", "bias", "variance"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]

    def shown(values):
        error = values.std(ddof=1) / np.sqrt(len(values))
        return f"{values.mean():.5f} +- {error:.5f}"

    for name, rows in found.items():
        for i, t in enumerate(TIMES):
            bias, variance = rows[:, i, 0], rows[:, i, 1]
            cells = [name, str(t), *map(shown, (bias + variance, bias, variance))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv=None) -> None:
    """Measures, prints the table and writes it with every caption's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="24 captions, 8 noises")
    parser.add_argument("--multiview", help="a multi-view prior to measure as well")
    parser.add_argument("--prompts", nargs="*", help="these captions instead")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    plan = FULL if arguments.full else SMALL
    sd = hub.load_stable_diffusion("toybox-sd")
    specs = held_out_specs(plan.captions, np.random.default_rng(SEED))
    if arguments.prompts:
        specs = [parse_caption(text)[0] for text in arguments.prompts]
    sets = cases(specs, sd.vae)
    predictors = {"toybox-sd, view words": view_words(sd)}
    if arguments.multiview:
        mv = load_multiview(arguments.multiview)
        predictors["multi-view, groups of 4"] = cameras(mv, VIEWS)
        predictors["multi-view, single views"] = cameras(mv, 1)
        predictors["multi-view, cameras wrong by 90"] = cameras(mv, VIEWS, 90.0)
    found = {
        name: measure(of, sets, sd.schedule, plan.noises)
        for name, of in predictors.items()
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = table(found)
    size = "full" if arguments.full else "small"
    (arguments.out / f"{size}.md").write_text(text)
    rows = {name: rows.tolist() for name, rows in found.items()}
    rows["captions"] = [case.text for case in sets]
    (arguments.out / f"{size}.json").write_text(json.dumps(rows) + "\n")
    print(text)


if __name__ == "__main__":
    main()
