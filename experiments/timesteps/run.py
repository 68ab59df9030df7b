"""HiFA's figure 7: schedules of t at equal cost, scored against the truth; see
README.md. Pixels are distilled on an exact prior of toybox pictures, with `--toybox`
Gaussians on toybox-sd (on_toybox.py).

    python experiments/timesteps/run.py            # small: a minute or two
    python experiments/timesteps/run.py --full     # README.md's table
    python experiments/timesteps/run.py --toybox   # and with --full its second one
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from samplers import SAMPLERS

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.exact_run import distil, nearest_psnr, toybox_pictures
from sdsjax.types import Estimator

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.005


class Plan(NamedTuple):
    """pixels a side, views a caption, steps, Adam's rates, seeds, estimators."""

    size: int
    views: int
    steps: int
    rates: tuple[float, ...]
    seeds: int
    estimators: tuple[str, ...]


def estimators() -> dict[str, Estimator]:
    return {
        "sds, s = 7.5": ESTIMATORS["sds"](SCHEDULE, guidance_scale=7.5),
        "sds, s = 100": ESTIMATORS["sds"](SCHEDULE, guidance_scale=100.0),
        "ssd, M = 500": ESTIMATORS["ssd"](SCHEDULE, threshold=500),
    }


SMALL = Plan(8, 4, 120, (0.03,), 2, ("sds, s = 7.5",))
FULL = Plan(12, 6, 500, (0.01, 0.03), 3, tuple(estimators()))


def time_tables(steps: int, seeds: int) -> np.ndarray:
    """t [samplers seeds steps]: what every sampler draws in a run."""

    def one(sampler, key):
        keys = jax.random.split(key, steps)
        return jax.vmap(lambda k, i: sampler(k, i, steps, ()))(keys, jnp.arange(steps))

    keys = jax.random.split(jax.random.key(1), seeds)
    tables = [jax.vmap(lambda k, s=s: one(s, k))(keys) for s in SAMPLERS.values()]
    return np.stack([np.asarray(t) for t in tables])


def scores(plan: Plan, pictures, estimator: Estimator):
    """PSNR [samplers rates captions seeds] to the nearest true picture, and the last z
    of the first seed [samplers rates captions ...]."""
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = jnp.full(len(flat), 1.0)
    captions, views = pictures.shape[:2]

    def one(times, key, rate, kept, truth):
        prior = gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, truth.shape[1:])
        z = distil(
            prior, estimator,
            lambda key, step, total, shape: jnp.broadcast_to(times[step], shape),
            start, key_run, steps=plan.steps, rate=rate,
        ).z[-1]  # fmt: skip
        return nearest_psnr(z, truth), z

    kept = np.repeat(np.arange(captions)[:, None] == np.arange(captions), views, 1)
    over = jax.vmap(one, (0, 0, None, None, None))
    over = jax.vmap(over, (None, None, None, 0, 0))
    over = jax.vmap(over, (None, None, 0, None, None))
    over = jax.vmap(over, (0, None, None, None, None))
    found, z = jax.jit(over)(
        jnp.asarray(time_tables(plan.steps, plan.seeds)),
        jax.random.split(jax.random.key(0), plan.seeds),
        jnp.asarray(plan.rates),
        jnp.asarray(kept),
        jnp.asarray(pictures),
    )
    return np.asarray(found), np.asarray(z[:, :, :, 0])


def mean_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over captions and seeds, and the standard error over captions."""
    each = values.mean(1)
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def table(plan: Plan, results: dict) -> str:
    """Markdown: PSNR by schedule, estimator and rate."""
    heads = [f"{name}, rate {rate:g}" for name in results for rate in plan.rates]
    lines = [
        f"PSNR (dB) to the nearest true picture, {len(CAPTIONS)} captions x "
        f"{plan.seeds} seeds, {plan.size} x {plan.size}, {plan.steps} steps of one "
        "noise; +- is the standard error over captions.",
        "",
        "| timesteps | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for i, sampler in enumerate(SAMPLERS):
        cells = []
        for found, _ in results.values():
            for j in range(len(plan.rates)):
                mean, error = mean_error(found[i, j])
                cells.append(f"{mean:.1f} +- {error:.1f}")
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(plan: Plan, results: dict, pictures, path: Path) -> None:
    """A row an estimator: first caption and rate, by schedule, then the truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        len(results), len(SAMPLERS) + 1, squeeze=False,
        figsize=(11, 2.2 * len(results) + 0.4), layout="constrained",
    )  # fmt: skip
    for line_of_axes, (name, (found, z)) in zip(grid, results.items()):
        for i, (sampler, axis) in enumerate(zip(SAMPLERS, line_of_axes)):
            axis.imshow(np.clip(0.5 * z[i, 0, 0] + 0.5, 0, 1))
            axis.set_title(f"{sampler}\n{found[i, 0, 0, 0]:.1f} dB", fontsize=8)
        line_of_axes[0].set_ylabel(name, fontsize=8)
        line_of_axes[-1].imshow(np.clip(0.5 * pictures[0, 0] + 0.5, 0, 1))
        line_of_axes[-1].set_title("a true view", fontsize=8)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if "--toybox" in argv:
        import on_toybox  # it has options of its own

        on_toybox.main(argv)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toybox", action="store_true", help="on_toybox.py")
    parser.add_argument("--full", action="store_true", help="README.md's table")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)
    known, results = estimators(), {}
    for label in plan.estimators:
        print(label, flush=True)
        results[label] = scores(plan, pictures, known[label])
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(plan, results)
    (options.out / f"{name}.md").write_text(text)
    picture(plan, results, pictures, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
