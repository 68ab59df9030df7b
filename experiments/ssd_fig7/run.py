"""SSD's figure 7 on its own mixture, and where SSD settles; see README.md.

theta = x in R^d is moved by one estimator at a time; the prior is exact. Notation as in
the package: z = x, t in 0..999, M = threshold, e_y, h = e_y - e_0, r.

    python experiments/ssd_fig7/run.py            # small: a minute or two
    python experiments/ssd_fig7/run.py --full     # the sweep of README.md
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.diffusion import NoiseSchedule, add_noise, alpha_sigma
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators.ssd import projection_ratio, ssd_direction
from sdsjax.priors import gaussian_mixture

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
WEIGHTS, VARIANCES = (0.2, 0.4, 0.4), (0.1, 0.05, 0.05)
MEANS = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
CONDITIONAL = (False, True, True)
STARTS = np.array([[0.0, 0.0], [1.5, 1.0]], np.float32)
SETTLED = 0.25  # distance to a conditional mean; they are 1 apart, sd .22
TERMS = ("mode_seeking", "mode_disengaging", "sds", "ssd")


class Case(NamedTuple):
    """One way of running SSD: dimension and lift, timesteps, rescale to |h| or not,
    the reduction of the noise, and the optimiser."""

    name: str
    sampler: str = "uniform"
    d: int = 2
    how: str = "pad"
    rescale: bool = True
    reduction: str = "adaptive"
    optimizer: str = "adam"


class Plan(NamedTuple):
    """steps; learning rate, falling tenfold; seeds (a start each); thresholds M; cases
    of the sweep."""

    steps: int
    rate: float
    seeds: int
    thresholds: tuple[int, ...]
    cases: tuple[Case, ...]


PLANE = (
    Case("uniform t"),
    Case("two phases, [20, 500] last", "two_phase"),
    Case("two phases, [20, M] last", "seek_last"),
    Case("window falling to 50", "annealed"),
    Case("uniform t, not rescaled", rescale=False),
    Case("uniform t, - eps", reduction="sds"),
    Case("uniform t, no reduction", reduction="none"),
    Case("uniform t, SGD", optimizer="sgd"),
)
DIMENSIONS = tuple(
    Case(f"{d}-D, {how}, {name}", sampler, d, how)
    for d, how in ((2, "pad"), (32, "pad"), (8, "tile"), (32, "tile"))
    for name, sampler in (("uniform t", "uniform"), ("to 50", "annealed"))
)
SMALL = Plan(600, 0.02, 4, (0, 100, 300, 700), (PLANE[0], PLANE[3]))
FULL = Plan(
    4000, 0.01, 16,
    (0, 25, 50, 100, 147, 200, 300, 400, 500, 600, 700, 850, 1000),
    PLANE + DIMENSIONS[2:],
)  # fmt: skip


def seek_last(key, step, total, shape, threshold):
    """U[20, 980] for a third of the run, then U[20, M]: only mode-seeking is left."""
    high = jnp.where(step < total / 3, 980, jnp.maximum(threshold, 21))
    return 20 + jnp.floor(jax.random.uniform(key, shape) * (high - 19)).astype(int)


def draw_time(name: str):
    """(key, step, total, shape, M) -> t."""
    if name == "seek_last":
        return seek_last
    sampler = {
        "uniform": TIMESTEPS["uniform"](),
        "two_phase": TIMESTEPS["two_phase"](),
        "annealed": TIMESTEPS["annealed_window"](t_end=50),
    }[name]
    return lambda key, step, total, shape, threshold: sampler(key, step, total, shape)


def lift(points, d: int, how: str):
    """[k 2] -> [k d]: "pad" appends zeros, "tile" repeats the two coordinates."""
    points = np.asarray(points, np.float32)
    if how == "tile":
        return np.tile(points, (1, d // 2))
    return np.pad(points, ((0, 0), (0, d - 2)))


def make_prior(d: int = 2, how: str = "pad"):
    """SSD's mixture in d dimensions; the prompt removes the first component."""
    means = lift(MEANS, d, how)
    return gaussian_mixture(SCHEDULE, WEIGHTS, means, VARIANCES, CONDITIONAL)


def direction(prior, term: str, case: Case, threshold, key, x, t):
    """The term's direction (w = 1) for one noise. threshold: M, may be traced."""
    eps = jax.random.normal(key, x.shape)
    e = prior.noise(add_noise(SCHEDULE, x, eps, t), t)
    h = e.cond - e.uncond
    if term == "mode_seeking":
        return e.cond
    if term == "mode_disengaging":
        return h
    if term == "sds":  # the paper's omega = 100 is s = 101
        return 100.0 * h + e.cond - eps
    r = projection_ratio(e.cond, eps)
    ratio = {"adaptive": r, "sds": 1.0, "none": 0.0}[case.reduction]
    return ssd_direction(e.cond, e.uncond, eps, t <= threshold, ratio, case.rescale)


def trajectory(term: str, case: Case, plan: Plan, start, threshold, key):
    """The path x [steps + 1, d] from one start, one noise a step."""
    prior, sampler = make_prior(case.d, case.how), draw_time(case.sampler)
    rate = optax.exponential_decay(plan.rate, plan.steps, 0.1)
    make = {"adam": partial(optax.adam, b1=0.9, b2=0.99), "sgd": optax.sgd}
    optimizer = make[case.optimizer](rate)

    def step(carried, index):
        x, state = carried
        key_t, key_noise = jax.random.split(jax.random.fold_in(key, index))
        t = sampler(key_t, index, plan.steps, (), threshold)
        grad = direction(prior, term, case, threshold, key_noise, x, t)
        update, state = optimizer.update(grad, state)
        x = optax.apply_updates(x, update)
        return (x, state), x

    _, path = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(plan.steps))
    return jnp.concatenate([start[None], path])


def tail(path, share: float = 0.1):
    """The mean over the last tenth of a path."""
    return jnp.mean(path[-max(1, int(share * path.shape[0])) :], 0)


def score_end(end, modes):
    """Distance to the nearest conditional mean, in units where those are 1 apart
    whatever the lift, and the place between them (0 and 1: on one)."""
    scale = jnp.linalg.norm(modes[1] - modes[0])
    near = jnp.min(jnp.linalg.norm(modes - end, axis=-1)) / scale
    along = (end - modes[0]) @ (modes[1] - modes[0]) / scale**2
    return near, along


def sweep(plan: Plan, case: Case):
    """(distance, place) [starts, thresholds, seeds] at the end of every run of SSD."""
    modes = jnp.asarray(lift(MEANS[1:], case.d, case.how))

    def one(start, threshold, key):
        path = trajectory("ssd", case, plan, start, threshold, key)
        return score_end(tail(path), modes)

    over_seeds = jax.vmap(one, (None, None, 0))
    over_all = jax.vmap(jax.vmap(over_seeds, (None, 0, None)), (0, None, None))
    keys = jax.random.split(jax.random.key(case.d), plan.seeds)
    starts = jnp.asarray(lift(STARTS, case.d, case.how))
    found = jax.jit(over_all)(starts, jnp.asarray(plan.thresholds), keys)
    return tuple(np.asarray(a) for a in found)


def merging_time(points: int = 2001) -> int:
    """The first t at which p(x_t; y) has one mode on the line between the two means."""
    along = np.linspace(-0.5, 1.5, points)
    for t in range(SCHEDULE.num_steps):
        alpha, sigma = (float(v) for v in alpha_sigma(SCHEDULE, t))
        total = alpha**2 * VARIANCES[1] + sigma**2
        density = sum(
            np.exp(-0.5 * alpha**2 * (along - m) ** 2 / total) for m in (0, 1)
        )
        inner = density[1:-1]
        if np.sum((inner > density[:-2]) & (inner >= density[2:])) == 1:
            return t
    raise ValueError("the two modes never merge on this schedule")


def log_density(x, alpha=1.0, sigma=0.0, conditional=False):
    """log p of x [... 2] at noise level (alpha, sigma)."""
    weights = np.array(WEIGHTS) * (np.array(CONDITIONAL) if conditional else 1)
    total = alpha**2 * np.array(VARIANCES) + sigma**2
    squares = np.sum((x[..., None, :] - alpha * MEANS) ** 2, -1)
    parts = (
        weights / weights.sum() / (2 * np.pi * total) * np.exp(-0.5 * squares / total)
    )
    return np.log(np.maximum(parts.sum(-1), 1e-300))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


# name: (term, case, M, start, colour)
PATHS = {
    "mode-seeking": ("mode_seeking", PLANE[0], 0, 0, "tab:blue"),
    "mode-disengaging": ("mode_disengaging", PLANE[0], 0, 0, "tab:green"),
    "mode-disengaging, from the trap": ("mode_disengaging", PLANE[0], 0, 1, "purple"),
    "SDS, s = 101": ("sds", PLANE[0], 0, 0, "tab:gray"),
    "SSD, M = 100": ("ssd", PLANE[0], 100, 0, "tab:orange"),
    "SSD, M = 400, not rescaled": ("ssd", PLANE[4], 400, 0, "tab:olive"),
    "SSD, M = 700, window falling to 50": ("ssd", PLANE[3], 700, 0, "tab:red"),
}


def trajectories(plan: Plan):
    """name -> paths [seeds, steps + 1, 2]."""
    keys = jax.random.split(jax.random.key(7), plan.seeds)
    found = {}
    for name, (term, case, threshold, start, _) in PATHS.items():
        run = partial(trajectory, term, case, plan, jnp.asarray(STARTS[start]))
        paths = jax.jit(jax.vmap(partial(run, threshold)))(keys)
        found[name] = np.asarray(paths)
    return found


def table(plan: Plan, paths: dict, swept: dict) -> str:
    """Markdown: ends of the trajectories, then what M does in every case."""
    lines = [
        f"Modes merge from t = {merging_time()} on. {plan.steps} steps, "
        f"{plan.seeds} seeds; ends are means over the last tenth of a run, +- standard "
        "deviation over seeds.",
        "",
        "| trajectory | ends at x | y | distance to a mode | log p(end) / p(mode) |",
        "|---|---|---|---|---|",
    ]
    top = log_density(MEANS[1:]).max()
    for name, found in paths.items():
        ends = found[:, -found.shape[1] // 10 :].mean(1)
        near = np.min(np.linalg.norm(ends[:, None] - MEANS[1:], axis=-1), 1)
        gap = log_density(ends) - top
        figures = (ends[:, 0], ends[:, 1], near, gap)
        cells = [f"{v.mean():.2f} +- {v.std(ddof=1):.2f}" for v in figures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    head = " | ".join(f"{m}" for m in plan.thresholds)
    lines += [
        "",
        f"| SSD, start | M = {head} |",
        "|---" * (len(plan.thresholds) + 1) + "|",
    ]
    for case, (near, _) in swept.items():
        for start, name in enumerate(("(0, 0)", "(1.5, 1)")):
            cells = [
                f"{np.median(n):.2f} ({int((n < SETTLED).sum())}/{n.size})"
                for n in near[start]
            ]
            lines.append(f"| {case}, {name} | " + " | ".join(cells) + " |")
    low, high = wilson(plan.seeds, plan.seeds)
    lines += [
        "",
        f"Cells: median distance to the nearest mode (seeds within {SETTLED}). "
        f"{plan.seeds}/{plan.seeds} means a share of {low:.2f} to {high:.2f}, 0/"
        f"{plan.seeds} of 0 to {wilson(0, plan.seeds)[1]:.2f} (95%, Wilson).",
    ]
    return "\n".join(lines) + "\n"


def draw_plane(axis, paths: dict) -> None:
    """The left half of fig. 7: p(x), and the paths of the first seed."""
    x, y = np.meshgrid(np.linspace(-0.8, 4.2, 200), np.linspace(-0.8, 3.2, 200))
    density = np.exp(log_density(np.stack([x, y], -1)))
    axis.contourf(x, y, density, 12, cmap="Greys", alpha=0.7)
    for name, found in paths.items():
        axis.plot(*found[0].T, lw=1.1, color=PATHS[name][4], label=name)
    axis.plot(*MEANS[1:].T, "r*", ms=13, mec="k")
    axis.plot(*STARTS[0], "*", color="gold", ms=13, mec="k")
    axis.plot(*STARTS[1], "X", color="purple", ms=8, mec="w")
    axis.set(xlim=(-0.8, 4.2), ylim=(-0.8, 3.2), xlabel="x", ylabel="y")
    axis.set_title("p(x); starts: star (0, 0), cross (1.5, 1)")
    axis.legend(fontsize=7, loc="lower right")


def draw_transient(axis, paths: dict, t: int = 350) -> None:
    """The right half: p(x_t; y) at t = 350 and alpha_t x of mode-seeking."""
    alpha, sigma = (float(v) for v in alpha_sigma(SCHEDULE, t))
    x, y = np.meshgrid(np.linspace(-0.8, 2.6, 200), np.linspace(-0.8, 2.2, 200))
    density = np.exp(log_density(np.stack([x, y], -1), alpha, sigma, True))
    shown = axis.contourf(x, y, density, 14, cmap="viridis")
    axis.figure.colorbar(shown, ax=axis, shrink=0.8)
    axis.plot(*(alpha * paths["mode-seeking"][0]).T, color="w", lw=0.9)
    axis.plot(*(alpha * MEANS[1:]).T, "r*", ms=13, mec="k", label="induced modes")
    axis.plot(*(alpha * STARTS[1]), "wo", mec="k", label="transient mode")
    axis.set_title(f"p(x_t; y) at t = {t}, and alpha_t x of mode-seeking")
    axis.legend(fontsize=7)


def draw_sweep(axis, plan: Plan, swept: dict, names, title: str) -> None:
    """Median distance to a mode against M, quartiles shaded, starting at (0, 0)."""
    for name in (name for name in names if name in swept):
        near = swept[name][0][0]
        low, middle, high = np.percentile(near, (25, 50, 75), axis=1)
        (line,) = axis.plot(plan.thresholds, middle, ".-", label=name)
        axis.fill_between(plan.thresholds, low, high, alpha=0.2, color=line.get_color())
    axis.axhline(SETTLED, color="k", ls=":", lw=1)
    axis.axvline(merging_time(), color="k", ls="--", lw=0.8)
    axis.set(yscale="log", xlabel="M", ylabel="distance to the nearest mode")
    axis.set_title(title)
    axis.legend(fontsize=7)


def picture(plan: Plan, paths: dict, swept: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    draw_plane(axes[0, 0], paths)
    draw_transient(axes[0, 1], paths)
    plane = [case.name for case in PLANE]
    draw_sweep(axes[1, 0], plan, swept, plane, "SSD in 2-D, from (0, 0)")
    rest = [plane[0], plane[3], *(case.name for case in DIMENSIONS)]
    draw_sweep(axes[1, 1], plan, swept, rest, "SSD by dimension, from (0, 0)")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sweep of README.md")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    paths = trajectories(plan)
    swept = {}
    for case in plan.cases:
        print(case.name, flush=True)
        swept[case.name] = sweep(plan, case)
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(plan, paths, swept)
    (options.out / f"{name}.md").write_text(text)
    picture(plan, paths, swept, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
