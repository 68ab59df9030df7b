"""The error of a trained prior's score against the exact one, by t; see README.md.

    python experiments/prior_error/run.py                   # toybox-sd, 4 captions
    python experiments/prior_error/run.py --full            # 24 captions
    python experiments/prior_error/run.py --full --multiview FOLDER      # beside it
    python experiments/prior_error/run.py --full --multiview WORK/unet   # a checkpoint

`--multiview` takes a folder of weights, a built-in name, or the folder of a training
that is under way, of which the moving average is measured. Rows are kept by caption and
weights: what was trained further is measured anew, and the table shows the newest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from predictors import Case, Predict, cameras, load_multiview, view_words

from sdsjax.files.fingerprints import fingerprint
from sdsjax.models.loading import hub
from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Option, Run, run
from sdsjax.toybox.world.captions import caption, pair_split, parse_caption
from sdsjax.toybox.world.objects import COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.toybox.world.views import draw_orbit, spread_azimuths

HERE = Path(__file__).resolve().parent
TIMES = (300, 500, 700, 900)
VIEWS = 4
WIDTH = 0.05  # standard deviation of the exact prior about the true latent
SEED = 77  # of captions, cameras, backgrounds and noises: no training uses it
BY_WORDS = "toybox-sd, view words"
# name: (views in a call, degrees by which the azimuths that it is told are wrong)
BY_CAMERA = {
    "multi-view, groups of 4": (VIEWS, 0.0),
    "multi-view, single views": (1, 0.0),
    "multi-view, cameras wrong by 90": (VIEWS, 90.0),
}


class Plan(NamedTuple):
    """prompts: captions; noises a view and timestep; multiview: folder, "": none."""

    prompts: tuple[str, ...]
    noises: int
    multiview: str = ""


def held_out_specs(count: int, rng: np.random.Generator) -> list[SceneSpec]:
    """Single objects of kinds that differ, and pairs that no training has seen."""
    kinds, colors = list(KINDS), list(COLORS)
    pairs, unseen = count // 3, pair_split()[1]
    singles = [
        SceneSpec(kinds[k], colors[rng.integers(len(colors))])
        for k in rng.permutation(len(kinds))[: count - pairs]
    ]
    return singles + [unseen[i] for i in rng.permutation(len(unseen))[:pairs]]


def captions(count: int) -> tuple[str, ...]:
    """So many captions that no training has seen, a third of them two objects."""
    specs = held_out_specs(count, np.random.default_rng(SEED))
    return tuple(caption(spec) for spec in specs)


SMALL, FULL = Plan(captions(4), 4), Plan(captions(24), 8)


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


def weights_of(where: str) -> str:
    """Tells weights from others: "" for none, else a fingerprint of the UNet's file."""
    if not where:
        return ""
    checkpoint = Path(where) / "checkpoint.safetensors"
    if checkpoint.exists():
        return fingerprint(checkpoint)
    return fingerprint(next((hub.resolve(where) / "unet").glob("*.safetensors")))


def key_of(prior: str, weights: str, plan: Plan, index: int) -> str:
    """The key of a row: views and noises differ with the place among the captions."""
    place = f"{index + 1}/{len(plan.prompts)}"
    return "; ".join([prior, *filter(None, [weights]), place, plan.prompts[index]])


def jobs(run: Run) -> Iterator[tuple[str, Any]]:
    plan = run.plan
    priors = [BY_WORDS, *(BY_CAMERA if plan.multiview else ())]
    weights = weights_of(plan.multiview)
    for prior in priors:
        own = weights if prior in BY_CAMERA else ""
        for index in range(len(plan.prompts)):
            yield key_of(prior, own, plan, index), (prior, own, index)


def worker(run: Run):
    plan = run.plan
    sd = hub.load_stable_diffusion("toybox-sd")
    sets = cases([parse_caption(text)[0] for text in plan.prompts], sd.vae)
    of = {BY_WORDS: view_words(sd)}
    if plan.multiview:
        networks = load_multiview(plan.multiview)
        of |= {name: cameras(networks, *said) for name, said in BY_CAMERA.items()}

    def perform(job) -> dict:
        prior, weights, index = job
        found = errors(of[prior](sets[index]), sets[index], sd.schedule, plan.noises)
        return {"prior": prior, "weights": weights, "errors": found.tolist()}

    return perform


def newest(run: Run) -> dict[str, np.ndarray]:
    """The errors [captions times 2] of every prior, of the newest weights that all
    captions were measured with."""
    found = {}
    for prior, weights in dict.fromkeys(
        (row["prior"], row["weights"]) for row in run.rows.values()
    ):
        plan = run.plan
        keys = [key_of(prior, weights, plan, i) for i in range(len(plan.prompts))]
        if all(key in run.rows for key in keys):
            found[prior] = np.array([run.rows[key]["errors"] for key in keys])
    return found


def table(run: Run) -> str:
    """Mean square = bias + variance, each +- its standard error over captions."""

    def shown(values):
        error = values.std(ddof=1) / np.sqrt(len(values))
        return f"{values.mean():.5f} +- {error:.5f}"

    rows = [
        [prior, str(t), *map(shown, (at.sum(axis=1), *at.T))]
        for prior, found in newest(run).items()
        for t, at in zip(TIMES, found.swapaxes(0, 1))
    ]
    head = ["prior", "t", "mean square", "bias", "variance"]
    return "\n".join(markdown_table(head, rows)) + "\n" if rows else ""


def main(argv=None) -> None:
    options = {
        "multiview": Option("a multi-view prior to measure as well"),
        "prompts": Option("these captions instead"),
    }
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table,
        options=options,
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
