"""SSD's figures 6, 13, 14 with ground truth: M, the rescaling, the reduction; see
README.md. Pixels are distilled on an exact prior of toybox pictures, with `--toybox`
Gaussians on toybox-sd (on_toybox.py).

    python experiments/ssd_ablation/run.py            # small: a minute or two
    python experiments/ssd_ablation/run.py --full     # README.md's table
    python experiments/ssd_ablation/run.py --toybox   # and with --full its second one
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from variants import VARIANTS, ssd_at

from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.exact_run import distil, nearest_psnr, toybox_pictures

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.005  # variance around every picture: what a trained prior calls plausible
SAMPLERS = {
    "uniform": TIMESTEPS["uniform"](),
    "window to 50": TIMESTEPS["annealed_window"](t_end=50),
}


class Plan(NamedTuple):
    """pixels a side, views a caption, steps, Adam's rate, seeds, thresholds M."""

    size: int
    views: int
    steps: int
    rate: float
    seeds: int
    thresholds: tuple[int, ...]


SMALL = Plan(8, 4, 120, 0.03, 2, (0, 500))
FULL = Plan(12, 6, 500, 0.02, 3, (0, 100, 200, 300, 500, 700, 1000))


def scores(plan: Plan, pictures, sampler: str):
    """PSNR [variants thresholds captions seeds 3] to the nearest true picture after a
    quarter, a half and the whole of a run from grey with a little noise, and the last
    z of the first caption and seed."""
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = jnp.full(len(flat), 1.0)
    captions, views = pictures.shape[:2]

    def one(settings, threshold, kept, truth, key):
        prior = gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, truth.shape[1:])
        trace = distil(
            prior, ssd_at(SCHEDULE, threshold, *settings), SAMPLERS[sampler], start,
            key_run, steps=plan.steps, rate=plan.rate, parts=4,
        )  # fmt: skip
        each = jax.vmap(lambda z: nearest_psnr(z, truth))(trace.z)
        return each[jnp.array([1, 2, 4])], trace.z[-1]

    kept = np.repeat(np.arange(captions)[:, None] == np.arange(captions), views, 1)
    keys = jax.random.split(jax.random.key(0), plan.seeds)
    over = jax.vmap(
        jax.vmap(one, (None, None, None, None, 0)), (None, None, 0, 0, None)
    )
    over = jax.vmap(
        jax.vmap(over, (None, 0, None, None, None)), (0, None, None, None, None)
    )
    found, last = jax.jit(over)(
        jnp.array(list(VARIANTS.values())),
        jnp.asarray(plan.thresholds),
        jnp.asarray(kept),
        jnp.asarray(pictures),
        keys,
    )
    return np.asarray(found), np.asarray(last[:, :, 0, 0])


def mean_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over captions and seeds, and the standard error over captions."""
    each = values.mean(1)
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def table(plan: Plan, results: dict) -> str:
    """Markdown: PSNR after a quarter and after the whole run."""
    lines = [
        f"PSNR (dB) to the nearest true picture, {len(CAPTIONS)} captions x "
        f"{plan.seeds} seeds, {plan.size} x {plan.size}, {plan.steps} steps; +- is the "
        "standard error over captions.",
        "",
        "| timesteps, variant, after | M = "
        + " | ".join(str(m) for m in plan.thresholds)
        + " |",
        "|---" * (len(plan.thresholds) + 1) + "|",
    ]
    for (sampler, variant), by_threshold in results.items():
        for index, part in ((0, "1/4"), (2, "1")):
            cells = []
            for found, _ in by_threshold.values():
                mean, error = mean_error(found[..., index])
                cells.append(f"{mean:.1f} +- {error:.1f}")
            lines.append(
                f"| {sampler}, {variant}, {part} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines) + "\n"


def curves(axes, plan: Plan, points: dict) -> None:
    """PSNR over M, an axis a sampler. points: (sampler, variant, index of the part of
    the run) -> [(mean, error)] by M. SSD is drawn wide: "- eps" lies on it."""
    for axis, sampler in zip(axes, SAMPLERS):
        for color, variant in zip(("C0", "C1", "C2", "C3"), VARIANTS):
            wide = {"lw": 5, "alpha": 0.35} if variant == "SSD" else {}
            for index, style, part in ((2, "o-", ""), (0, "x:", ", first quarter")):
                value, error = np.array(points[sampler, variant, index]).T
                axis.errorbar(
                    plan.thresholds, value, error, fmt=style, color=color,
                    label=variant + part, ms=4, **wide,
                )  # fmt: skip
        axis.set(title=f"timesteps: {sampler}", xlabel="M", ylabel="PSNR, dB")
    # where nothing is drawn: with uniform t nobody passes 35 dB
    axes[0].legend(fontsize=7, loc="upper center", ncols=2)


def picture(plan: Plan, results: dict, pictures, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    points = {
        (*row, index): [mean_error(found[..., index]) for found, _ in each.values()]
        for row, each in results.items()
        for index in (0, 2)
    }
    axes = upper.subplots(1, len(SAMPLERS), sharey=True, squeeze=False)[0]
    curves(axes, plan, points)
    rows = [(s, v) for s in SAMPLERS for v in VARIANTS]
    grid = lower.subplots(len(plan.thresholds), len(rows) + 1)
    for line_of_axes, m in zip(grid, plan.thresholds):
        shown = [results[row][m][1] for row in rows] + [pictures[0, 0]]
        titles = [f"{s}\n{v}" for s, v in rows] + ["a true view"]
        for axis, x, title in zip(line_of_axes, shown, titles):
            axis.imshow(np.clip(0.5 * x + 0.5, 0, 1))
            axis.set(xticks=[], yticks=[])
            if m == plan.thresholds[0]:
                axis.set_title(title, fontsize=7)
        line_of_axes[0].set_ylabel(f"M = {m}", fontsize=7)
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
    results = {}
    for sampler in SAMPLERS:
        print(sampler, flush=True)
        found, last = scores(plan, pictures, sampler)
        for i, variant in enumerate(VARIANTS):
            results[sampler, variant] = {
                m: (found[i, j], last[i, j]) for j, m in enumerate(plan.thresholds)
            }
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(plan, results)
    (options.out / f"{name}.md").write_text(text)
    picture(plan, results, pictures, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
