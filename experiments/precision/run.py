"""What a prior in bfloat16 does to each estimator's gradient; see README.md.

The same views, noise and t with the network's weights and activations in bfloat16 and
in float32: how far the two gradients lie apart, in z (equal z) and at the pixels (the
encoder and its gradient in bfloat16 too), against how far two noises lie apart.

    python experiments/precision/run.py            # 3 estimators, 2 timesteps, 8 noises
    python experiments/precision/run.py --full     # 14 configs, 3 timesteps, 16 noises
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cli.checks import resolve
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, plus_minus, saved_figure
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import DISTANCE
from sdsjax.training.build import build
from sdsjax.training.encoding import bind
from sdsjax.training.groups import into_groups, out_of_groups
from sdsjax.types import Rendering, View

HERE = Path(__file__).resolve().parent
AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
BESIDE = 30.0  # degrees to the view that a third of each picture is of
SEED = 5
TOYBOX_SD = (
    *("sds", "ssd", "csd", "nfsd", "ism", "sdi", "sds_plus", "denoised_l2"),
    *("hifa", "stein", "vsd"),
)
COLUMNS = {
    "z": "of one gradient in z",
    "cosine": "1 - cosine",
    "z_mean": "of the mean in z",
    "z_noise": "of the noise's spread",
    "x": "of one gradient at the pixels",
    "x_mean": "of the mean there",
}


class Plan(NamedTuple):
    """configs: with their variant; times: t; noises: of every view; prompt: one."""

    configs: tuple[str, ...]
    times: tuple[int, ...]
    noises: int
    prompt: str = "a red mug"


SMALL = Plan(("sds:toybox", "ssd:toybox", "csd:toybox"), (300, 700), 8)
FULL = Plan(
    (*(f"{name}:toybox" for name in TOYBOX_SD), "sds:mv", "ssd:mv", "vsd:mv"),
    (100, 500, 900),
    16,
)


def variant(name: str) -> str:
    """The config's name as it is written: a file with one variant has no suffix."""
    try:
        resolve(name)
    except ValueError:
        return name.partition(":")[0]
    return name


def views_of(prompt: str):
    """x [4 h w 3] in [-1, 1], half way to the object, and the views' cameras."""

    def drawn(turn):
        orbits = [(azimuth + turn, 15.0, DISTANCE) for azimuth in AZIMUTHS]
        true = scoring.true_views(parse_caption(prompt)[0], orbits)
        return true, scoring.orbit_cameras(orbits, scoring.SIZE)

    (true, cameras), (beside, _) = drawn(0.0), drawn(BESIDE)
    x = 2 * (0.7 * true.rgb + 0.3 * beside.rgb) - 1
    return jnp.asarray(x), View(cameras, Rendering(*map(jnp.asarray, true), aux={}))


def make_gradient(config, views):
    """Makes (t, keys, z or None) -> (z, g_z, g_x) of one dtype, [noises views ...]."""
    built = build(config)
    source, estimator = built.source, built.estimator
    x, view = views
    group = built.group

    @jax.jit
    def gradient(params, state, t, keys, z):
        prior = bind(source, params)
        own, pull = jax.vjp(lambda x: jax.vmap(prior.encode)(x), x)
        z = own if z is None else z.astype(own.dtype)
        zs, seen = into_groups((z, view), group)
        ts = jnp.full(len(AZIMUTHS) // group, t)

        def one(key):
            keys = jax.random.split(key, len(ts))
            found = jax.vmap(
                lambda key, z, t, view: estimator.estimate(
                    prior, key, state, z, t, view
                )
            )(keys, zs, ts, seen)
            g_z = out_of_groups(found.grad, group)
            g_x = pull(g_z.astype(own.dtype))[0]
            if found.image_grad is not None:
                g_x += out_of_groups(found.image_grad, group).astype(g_x.dtype)
            return g_z.astype(jnp.float32), g_x.astype(jnp.float32)

        return z, *jax.lax.map(one, keys)

    params = source.params
    z_spec = jax.eval_shape(
        lambda p, x: into_groups(jax.vmap(bind(source, p).encode)(x), group)[0],
        params, x,
    )  # fmt: skip
    state = jax.jit(lambda p, key: estimator.init(bind(source, p), key, z_spec))(
        params, jax.random.key(SEED)
    )
    return lambda t, keys, z=None: gradient(params, state, t, keys, z)


def apart(half: np.ndarray, full: np.ndarray) -> dict[str, tuple[float, float]]:
    """The distances of two sets of gradients [noises ...], relative to the second's.

    one: root mean square over noises; mean: of the means; noise: root mean square over
    the spread of `full`'s own noises. Each (value, jackknife error over 8 groups).
    """
    half, full = (a.reshape(len(a), -1).astype(np.float64) for a in (half, full))

    def measured(rows):
        a, b = half[rows], full[rows]
        away = np.mean(np.sum((a - b) ** 2, -1))
        spread = np.sum((b - b.mean(0)) ** 2) / (len(b) - 1)
        shift = np.sum((a.mean(0) - b.mean(0)) ** 2) / np.sum(b.mean(0) ** 2)
        dots = np.sum(a * b, -1) / np.sqrt(np.sum(a**2, -1) * np.sum(b**2, -1))
        one = away / np.mean(np.sum(b**2, -1))
        return np.array([one, shift, away / spread, 1 - dots.mean()])

    groups = np.array_split(np.arange(len(full)), 8)
    left = [
        measured(np.concatenate([g for g in groups if g is not out])) for out in groups
    ]
    value = measured(np.arange(len(full)))
    error = np.sqrt(7 / 8 * np.sum((np.array(left) - np.mean(left, 0)) ** 2, 0))
    # of squares their roots
    root = np.sqrt(value[:3])
    error[:3] /= 2 * np.maximum(root, 1e-12)
    value[:3] = root
    names = ("one", "mean", "noise", "cosine")
    return {n: (float(v), float(e)) for n, v, e in zip(names, value, error)}


def jobs(run: Run):
    for name in run.plan.configs:
        for t in run.plan.times:
            yield f"{name}; t {t}; {run.plan.noises}", (name, t)


def worker(run: Run):
    enable_compile_cache()
    plan = run.plan
    views = views_of(plan.prompt)
    gradients: dict[str, Any] = {}

    def perform(job: tuple[str, int]) -> dict:
        name, t = job
        if name not in gradients:
            gradients.clear()
            gradients[name] = [
                make_gradient(
                    resolve(
                        variant(name), {"prompt": plan.prompt, "prior.dtype": dtype}
                    ),
                    views,
                )
                for dtype in ("float32", "bfloat16")
            ]
        full, half = gradients[name]
        keys = jax.random.split(jax.random.key(SEED + t), plan.noises)
        z, g_z, g_x = full(t, keys)
        _, same_z, _ = half(t, keys, z)
        _, _, pixels = half(t, keys)
        in_z = apart(np.asarray(same_z), np.asarray(g_z))
        in_x = apart(np.asarray(pixels), np.asarray(g_x))
        return {
            "config": name, "t": t, "z": in_z["one"], "cosine": in_z["cosine"],
            "z_mean": in_z["mean"], "z_noise": in_z["noise"], "x": in_x["one"],
            "x_mean": in_x["mean"],
        }  # fmt: skip

    return perform


def table(run: Run) -> str:
    """A row a config and timestep."""
    rows = [
        [row["config"], str(row["t"]), *(plus_minus(*row[c]) for c in COLUMNS)]
        for row in run.rows.values()
    ]
    return "\n".join(markdown_table(["config", "t", *COLUMNS.values()], rows)) + "\n"


def figure(run: Run) -> None:
    """The distance of one gradient and of the mean by t, a line a config."""
    with saved_figure(run.file(".png"), figsize=(12, 4.5)) as drawn:
        axes = drawn.subplots(1, 3, sharey=True)
        for axis, column in zip(axes, ("z", "z_mean", "x")):
            for i, name in enumerate(run.plan.configs):
                rows = [r for r in run.rows.values() if r["config"] == name]
                if rows:
                    t, values = zip(*((r["t"], r[column][0]) for r in rows))
                    style = "o-" if i < 10 else "s--"  # ten colours, more configs
                    axis.plot(t, values, style, ms=3, label=name, color=f"C{i % 10}")
            axis.set(title=COLUMNS[column], xlabel="t", yscale="log")
        axes[0].set_ylabel("bfloat16 - float32, relative")
        axes[-1].legend(fontsize=6, ncol=2)


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table, figure=figure
    )
    run(argv, experiment)


if __name__ == "__main__":
    main()
