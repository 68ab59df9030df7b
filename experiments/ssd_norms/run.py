"""SSD's figures 9 and 16-19: norms, correlation, r and c* by t; see README.md.

At a fixed rendering x, many noises a timestep: |e_y|, |h|, the linear correlation of
e_y and eps, r against c*, the variance that each reduction leaves, and one step's
gradient as a picture. Every number has a jackknife error over 16 groups.

    python experiments/ssd_norms/run.py            # small: 512 noises, exact priors
    python experiments/ssd_norms/run.py --full     # 8 192 noises
    python experiments/ssd_norms/run.py --full --toybox   # toybox-sd, 256 noises
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.noise_projection import linear_correlation, noise_projection
from sdsjax.diffusion import NoiseSchedule, add_noise
from sdsjax.math import inner
from sdsjax.priors import empirical, gaussian_mixture
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.types import Prior

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
PROMPT = "a red snowman"
OTHERS = ("a blue house", "a green car", "a yellow duck")
VIEWS = 8
SUBSPACE = 32  # dimensions in which the correlation is measured
FIELD_TIMES = (20, 200, 500)


class Plan(NamedTuple):
    """noises a timestep, timesteps, pixels a side, noises for toybox-sd."""

    noises: int
    times: tuple[int, ...]
    size: int
    network_noises: int


SMALL = Plan(512, (20, 200, 500, 900), 12, 32)
FULL = Plan(8192, (20, 100, 200, 300, 400, 500, 600, 700, 850, 980), 12, 256)


class Case(NamedTuple):
    """A prior at one z; noises and how many are evaluated at once."""

    prior: Prior
    z: jax.Array
    noises: int
    chunk: int


def toybox_images(size: int) -> np.ndarray:
    """x [captions views size size 3] in [-1, 1]: 4 x 4 pixels averaged."""
    specs = [parse_caption(text)[0] for text in (PROMPT, *OTHERS)]
    orbits = [(360.0 * i / VIEWS, 15.0) for i in range(VIEWS)]
    rgb = render_specs(
        [s for s in specs for _ in orbits], orbits * len(specs), size=4 * size
    )
    rgb = rgb.reshape(len(specs), VIEWS, size, 4, size, 4, 3).mean((3, 5))
    return 2.0 * rgb - 1.0


def exact_cases(plan: Plan) -> dict[str, Case]:
    """Point masses, and the same pictures with a variance of .02 and of .1 around each;
    z is an over-smooth rendering, .7 of one view and .3 of the next."""
    images = toybox_images(plan.size)
    z = jnp.asarray(0.7 * images[0, 0] + 0.3 * images[0, 1])
    flat = images.reshape(-1, *images.shape[2:])
    kept = np.arange(len(flat)) < VIEWS
    weights = np.ones(len(flat))
    priors = {
        "points": empirical(SCHEDULE, flat, kept),
        "spread .02": gaussian_mixture(SCHEDULE, weights, flat, 0.02 * weights, kept),
        "spread .1": gaussian_mixture(SCHEDULE, weights, flat, 0.1 * weights, kept),
    }
    return {name: Case(prior, z, plan.noises, 64) for name, prior in priors.items()}


def toybox_case(plan: Plan) -> Case:
    """The trained prior, at the encoded mean of two true views."""
    from sdsjax.cli.checks import resolve
    from sdsjax.training.build import PRIORS

    config = resolve("ssd:image", {"prompt": PROMPT})
    source = PRIORS[config.prior.name](config)
    prior = source.bind(source.params)
    spec = parse_caption(PROMPT)[0]
    rgb = render_specs([spec, spec], [(0.0, 15.0), (30.0, 15.0)], size=64).mean(0)
    z = jax.jit(prior.encode)(jnp.asarray(2.0 * rgb - 1.0))
    return Case(prior, z, plan.network_noises, 8)


def subspace(size: int) -> jax.Array:
    """An orthonormal basis [size, k] of a random subspace, k = min(size, SUBSPACE)."""
    k = min(size, SUBSPACE)
    return jnp.linalg.qr(jax.random.normal(jax.random.key(3), (size, k)))[0]


def measure(case: Case, times, *, with_correlation: bool = True) -> list[dict]:
    """One row a timestep: name -> (value, error)."""
    basis = subspace(case.z.size)

    def sample(t) -> Callable:
        def one(key):
            eps = jax.random.normal(key, case.z.shape)
            z_t = add_noise(SCHEDULE, case.z, eps, t)
            e = case.prior.noise(z_t, t, None, branches=("cond",)).cond
            return e.reshape(-1) @ basis, eps.reshape(-1) @ basis

        return one

    @jax.jit
    def at(t):
        key_a, key_b = jax.random.split(jax.random.key(11))
        sizes = {"samples": case.noises, "chunk": case.chunk}
        found = noise_projection(case.prior, case.z, t, key_a, **sizes)
        row = {k: v for k, v in found._asdict().items() if k != "left"}
        row |= {f"left_{k}": v for k, v in found.left.items()}
        if with_correlation:
            rho = linear_correlation(sample(t), key_b, **sizes)
            row["correlation"] = rho
        return {k: (v.value, v.error) for k, v in row.items()}

    rows = []
    for t in times:
        found = jax.device_get(at(jnp.int32(t)))
        rows.append({k: (float(a), float(b)) for k, (a, b) in found.items()})
    return rows


def fields(case: Case, times) -> np.ndarray:
    """One noise's directions [times, 4, h w 3]: e_y, e_y - eps, e_y - r eps, E e_y
    (mean of 256), each over the largest of its row's last but first picture."""
    key = jax.random.key(5)

    @jax.jit
    def at(t):
        def noise(k):
            eps = jax.random.normal(k, case.z.shape)
            z_t = add_noise(SCHEDULE, case.z, eps, t)
            return eps, case.prior.noise(z_t, t, None, branches=("cond",)).cond

        eps, e = noise(key)
        many = jax.vmap(lambda k: noise(k)[1])(jax.random.split(key, 256))
        r = inner(e, eps) / inner(eps, eps)
        return jnp.stack([e, e - eps, e - r * eps, many.mean(0)])

    return np.stack([np.asarray(at(jnp.int32(t))) for t in times])


COLUMNS = {
    "cond_norm": "|e_y|",
    "h_norm": "|h|",
    "correlation": "correlation",
    "c_star": "c*",
    "r_min": "r min",
    "r_mean": "r mean",
    "r_max": "r max",
    "left_none": "Var e_y",
    "left_sds": "Var e_y - eps",
    "left_adaptive": "Var e_y - r eps",
    "left_optimal": "Var e_y - c* eps",
}


def cell(row: dict, name: str) -> str:
    if name not in row:
        return "-"
    value, error = row[name]
    return f"{value:.4g} +- {error:.1g}"


def table(plan: Plan, results: dict[str, list[dict]], cases: dict[str, Case]) -> str:
    """Markdown: one table a prior."""
    lines = []
    for name, rows in results.items():
        case = cases[name]
        lines += [f"**{name}**: d = {case.z.size}, {case.noises} noises a timestep", ""]
        lines.append("| t | " + " | ".join(COLUMNS.values()) + " |")
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for t, row in zip(plan.times, rows):
            cells = " | ".join(cell(row, column) for column in COLUMNS)
            lines.append(f"| {t} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def picture(plan: Plan, results: dict, shown: np.ndarray, path: Path) -> None:
    """Norms, correlation, r and c*, variances (figs. 16-19); the fields (fig. 9)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(15, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    axes = upper.subplots(1, 4)
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for (name, rows), color in zip(results.items(), colors):

        def line(axis, column, style, label, rows=rows, color=color):
            if column not in rows[0]:
                return
            value, error = np.array([row[column] for row in rows]).T
            axis.errorbar(
                plan.times, value, error, fmt=style, color=color, label=label, ms=3
            )

        line(axes[0], "cond_norm", "o-", f"|e_y|, {name}")
        line(axes[0], "h_norm", "s--", f"|h|, {name}")
        line(axes[1], "correlation", "o-", name)
        line(axes[2], "c_star", "o-", f"c*, {name}")
        low, high = ([row[k][0] for row in rows] for k in ("r_min", "r_max"))
        axes[2].fill_between(plan.times, low, high, color=color, alpha=0.25)
        line(axes[3], "left_none", "o-", f"e_y, {name}")
        line(axes[3], "left_sds", "x:", f"e_y - eps, {name}")
        line(axes[3], "left_adaptive", "s--", f"e_y - r eps, {name}")
    titles = (
        "norms (figs. 16, 19)", "linear correlation (fig. 17)",
        "c* and the range of r (fig. 18)", "total variance left",
    )  # fmt: skip
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel="t")
        axis.legend(fontsize=6)
    axes[0].set_yscale("log")
    axes[3].set_yscale("log")
    grid = lower.subplots(len(shown), 4, squeeze=False)
    names = ("e_y", "e_y - eps", "e_y - r eps", "mean of 256 e_y")
    for row, t, line_of_axes in zip(shown, FIELD_TIMES, grid):
        scale = np.abs(row[2]).max()
        for values, title, axis in zip(row, names, line_of_axes):
            axis.imshow(np.clip(0.5 + 0.5 * values / scale, 0, 1))
            axis.set_title(f"{title}, t = {t}", fontsize=8)
            axis.set_axis_off()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="8 192 noises")
    parser.add_argument("--toybox", action="store_true", help="toybox-sd instead")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    shown_case = "toybox-sd" if options.toybox else "spread .02"
    if options.toybox:
        cases, name = {shown_case: toybox_case(plan)}, f"{name}-toybox"
    else:
        cases = exact_cases(plan)
    results = {}
    for label, case in cases.items():
        print(label, flush=True)
        enough = case.noises > 2 * min(SUBSPACE, case.z.size)
        results[label] = measure(case, plan.times, with_correlation=enough)
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(plan, results, cases)
    (options.out / f"{name}.md").write_text(text)
    # of a latent the first three channels
    shown = fields(cases[shown_case], FIELD_TIMES)[..., :3]
    picture(plan, results, shown, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
