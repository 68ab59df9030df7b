"""SteinDreamer's figures 1, 5, 6 and section 3 on an exact prior; see README.md.

Variance and bias of SDS, VSD, SSD and Stein along one run, every estimator at the same
z with the same noise, so that differences are paired; and what VSD's second network
does when its mean lags behind z or its variance has not shrunk to zero.

    python experiments/stein_variance/run.py            # small: a minute or two
    python experiments/stein_variance/run.py --full     # README.md's tables
    python experiments/stein_variance/run.py --toybox   # on toybox-sd: toybox.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.gradient_stats import (
    bias_between,
    describe_groups,
    variance_ratio,
)
from sdsjax.diagnostics.moments import Draw, observe
from sdsjax.diffusion import NoiseSchedule, add_noise, guide
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.stein_mu import optimal_mu
from sdsjax.priors import gaussian_mixture
from sdsjax.priors.gaussian_mixture import AffineAdapter
from sdsjax.studies.exact_run import distil, toybox_pictures

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.05
SCALE = 7.5
SAMPLER = TIMESTEPS["uniform"]()
PLAIN = {"guidance_scale": SCALE, "weighting": "sigma2"}


class Plan(NamedTuple):
    """pixels a side, views a caption, steps, Adam's rate, parts of the run at whose
    ends is measured, samples there, VSD's learning rate."""

    size: int
    views: int
    steps: int
    rate: float
    parts: int
    samples: int
    adapter_rate: float


SMALL = Plan(6, 3, 60, 0.03, 2, 128, 0.01)
FULL = Plan(8, 6, 600, 0.02, 4, 4096, 0.01)


def square(prior, z_t, t, view):
    """A baseline phi that is not constant: -|z_t|^2 / d."""
    del prior, t, view
    return -jnp.mean(z_t**2)


ALONG = {
    "vsd": lambda plan: ESTIMATORS["vsd"](
        SCHEDULE, **PLAIN, adapter_lr=plan.adapter_rate
    ),
    "constant": lambda plan: ESTIMATORS["stein"](SCHEDULE, **PLAIN, fit="element"),
    "square": lambda plan: ESTIMATORS["stein"](
        SCHEDULE, **PLAIN, baseline=square, fit="element"
    ),
}


def make_prior(plan: Plan):
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = np.ones(len(flat))
    kept = np.arange(len(flat)) < plan.views
    return gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)


def runs(plan: Plan, prior):
    """name -> Trace of a run under each estimator that learns, from grey."""
    start = jnp.zeros((plan.size, plan.size, 3))

    def one(name):
        estimator = ALONG[name](plan)
        return jax.jit(
            lambda key: distil(
                prior, estimator, SAMPLER, start, key,
                steps=plan.steps, rate=plan.rate, batch=4, parts=plan.parts,
            )
        )(jax.random.key(0))  # fmt: skip

    return {name: one(name) for name in ALONG}


def estimates(prior, z, t, key, psi, mus, optimum):
    """name -> w(t) times the direction, one (t, eps) for all of them (equal keys)."""
    eps = jax.random.normal(jax.random.split(key)[0], z.shape)
    z_t = add_noise(SCHEDULE, z, eps, t)
    e = prior.noise(z_t, t, None)
    sigma = SCHEDULE.sigmas[t]
    w, e_s = sigma**2, guide(e.cond, e.uncond, SCALE)
    phi, slope = jax.value_and_grad(lambda v: square(prior, v, t, None))(z_t)
    variate = eps * phi - sigma * slope
    ssd = ESTIMATORS["ssd"](SCHEDULE, threshold=500)
    directions = {
        "sds": w * (e_s - eps),
        "mu = 0": w * e_s,
        "constant, learned": w * (e_s - mus["constant"] * eps),
        "constant, optimum": w * (e_s - optimum["constant"] * eps),
        "square, mu = 1": w * (e_s + variate),
        "square, learned": w * (e_s + mus["square"] * variate),
        "square, optimum": w * (e_s + optimum["square"] * variate),
        "vsd": w * (e_s - prior.adapter.noise(psi, z_t, t, None)),
        "vsd, converged": w * (e_s - eps),
        "ssd, M = 500": ssd.estimate(prior, key, (), z, t, None).grad,
    }
    return directions, w * e_s, {"constant": -w * eps, "square": w * variate}


def measure(plan: Plan, prior):
    """(z, psi, mus) -> (variance and signal of each estimator, bias against sds)."""

    def at(z, psi, mus):
        key_fit, key = jax.random.split(jax.random.key(3))
        nothing = {"constant": jnp.zeros_like(z), "square": jnp.zeros_like(z)}

        def fit(k):
            key_t, key_noise = jax.random.split(k)
            t = SAMPLER(key_t, 0, 1, ())
            _, a, c = estimates(prior, z, t, key_noise, psi, mus, nothing)
            return {n: (a * v, v * v) for n, v in c.items()}

        # The optimum is fitted on noise of its own: it stays unbiased.
        many = jax.random.split(key_fit, plan.samples)
        sums = jax.tree.map(lambda v: v.sum(0), jax.vmap(fit)(many))
        optimum = {
            n: optimal_mu(ac, cc, jnp.float32(plan.samples))
            for n, (ac, cc) in sums.items()
        }

        def sample(k):
            key_t, key_noise = jax.random.split(k)
            t = SAMPLER(key_t, 0, 1, ())
            found, _, _ = estimates(prior, z, t, key_noise, psi, mus, optimum)
            return Draw(found, {})

        found, _ = observe(sample, key, samples=plan.samples, chunk=64)
        stats = {
            n: (s := describe_groups(g)).variance._asdict()
            | {"signal": s.signal.value, "signal_error": s.signal.error}
            for n, g in found.items()
        }
        sds = found["sds"]
        for n, g in found.items():
            ratio = variance_ratio(g, sds)
            stats[n] |= {"ratio": ratio.value, "ratio_error": ratio.error}
        return stats, {n: bias_between(g, sds) for n, g in found.items()}

    return jax.jit(at)


LAGS = (0.0, 0.05, 0.2)
VARIANCES = (0.0, 0.01, 0.05, 0.2, 1.0)


def psi_grid(at, z, psi, mus, key):
    """(lag, variance) -> (stats, bias) of VSD whose psi has mean z + lag (rms, a fixed
    random direction) and the given variance."""
    away = jax.random.normal(key, z.shape)
    found = {}
    for lag in LAGS:
        for variance in VARIANCES:
            known = AffineAdapter(
                z + lag * away / jnp.sqrt(jnp.mean(away**2)),
                jnp.log(jnp.float32(max(variance, 1e-12))),
            )
            stats, biases = jax.device_get(at(z, known, mus))
            found[lag, variance] = stats["vsd"], biases["vsd"]
    return found


def pm(value, error) -> str:
    return f"{float(value):.4g} +- {float(error):.1g}"


def table(plan: Plan, along: list, grid: dict, state: list) -> str:
    """Markdown: variance by estimator along the run, bias, then psi's grid."""
    steps = [plan.steps * i // plan.parts for i in range(plan.parts + 1)]
    names = list(along[0][0])
    heads = " | ".join(f"step {s}" for s in steps)
    lines = [
        f"Guidance {SCALE}, w = sigma^2, t uniform, {plan.samples} paired samples, d = "
        f"{3 * plan.size**2}. tr Cov(G) of one sample:",
        "",
        f"| estimator | {heads} |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for name in names:
        cells = [pm(s[name]["value"], s[name]["error"]) for s, _ in along]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = [pm(s["sds"]["signal"], s["sds"]["signal_error"]) for s, _ in along]
    lines.append("| squared mean of sds | " + " | ".join(cells) + " |")
    lines += ["", "tr Cov over that of sds, paired:", "", f"| estimator | {heads} |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for name in names:
        cells = [pm(s[name]["ratio"], s[name]["ratio_error"]) for s, _ in along]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "|E G - E sds|^2, paired, and in brackets its share of |E sds|^2:",
        "",
    ]
    lines += [f"| estimator | {heads} |", "|---" * (len(steps) + 1) + "|"]
    for name in names:
        cells = [
            pm(b[name].square.value, b[name].square.error)
            + f" ({float(b[name].square.value / s['sds']['signal']):.2%})"
            for s, b in along
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    learned = ", ".join(f"step {s}: lag {a:.3f}, variance {v:.3f}" for s, a, v in state)
    lines += ["", f"psi of the VSD run, against the z it serves: {learned}.", ""]
    lines.append("VSD at the last z with psi set by hand (variance of psi = 0 is SDS):")
    titles = ("mean lag (rms)", "psi variance", "tr Cov", "over sds", "bias^2", "share")
    lines += ["", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    last = along[-1][0]["sds"]["signal"]
    for (lag, variance), (stats, bias) in grid.items():
        share = float(bias.square.value / last)
        lines.append(
            f"| {lag:g} | {variance:g} | {pm(stats['value'], stats['error'])} | "
            f"{pm(stats['ratio'], stats['ratio_error'])} | "
            f"{pm(bias.square.value, bias.square.error)} | {share:.2%} |"
        )
    return "\n".join(lines) + "\n"


def picture(plan: Plan, along: list, grid: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    steps = [plan.steps * i // plan.parts for i in range(plan.parts + 1)]
    styles = {"mu = 0": ":", "vsd, converged": "--"}
    for name in along[0][0]:
        if name in ("sds", "mu = 0", "ssd, M = 500"):
            continue  # 1, hundreds, and another gradient
        value = [s[name]["ratio"] for s, _ in along]
        error = [s[name]["ratio_error"] for s, _ in along]
        style = styles.get(name, "-") + "."
        axes[0].errorbar(steps, value, error, fmt=style, label=name)
        if name != "vsd, converged":
            bias = [b[name].square for _, b in along]
            axes[1].errorbar(
                steps,
                [b.value / s["sds"]["signal"] for b, (s, _) in zip(bias, along)],
                [b.error / s["sds"]["signal"] for b, (s, _) in zip(bias, along)],
                fmt=style, label=name, capsize=2,
            )  # fmt: skip
    axes[0].set(title="variance along the run, over that of sds", xlabel="step")
    axes[0].axhline(1, color="k", lw=0.8)
    axes[1].set(title="bias^2 against sds, share of its signal", xlabel="step")
    axes[1].axhline(0, color="k", lw=0.8)
    for lag in LAGS:
        x = [grid[lag, v][0]["ratio"] for v in VARIANCES]
        y = [grid[lag, v][1].square.value for v in VARIANCES]
        axes[2].plot(x, y, "o-", label=f"psi's mean lags by {lag:g}")
    for v in VARIANCES:
        at = grid[LAGS[-1], v]
        axes[2].annotate(f"{v:g}", (at[0]["ratio"], at[1].square.value), fontsize=8)
    axes[2].set(title="VSD by psi's lag and variance", xscale="log")
    axes[2].set(xlabel="tr Cov over that of sds", ylabel="bias^2 against sds")
    for axis in axes:
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if "--toybox" in argv:
        import toybox  # it has options of its own

        toybox.main(argv)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="README.md's tables")
    parser.add_argument("--toybox", action="store_true", help="toybox-sd: toybox.py")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    prior = make_prior(plan)
    traces = runs(plan, prior)
    at, along, state = measure(plan, prior), [], []
    for i in range(plan.parts + 1):
        # VSD's own z: where its psi was trained; every estimator is measured there.
        z = traces["vsd"].z[i]
        psi = jax.tree.map(lambda leaf, i=i: leaf[i], traces["vsd"].state.psi)
        mus = {n: traces[n].state.mu[i] for n in ("constant", "square")}
        along.append(jax.device_get(at(z, psi, mus)))
        lag = float(jnp.sqrt(jnp.mean((psi.mean - z) ** 2)))
        step = plan.steps * i // plan.parts
        state.append((step, lag, float(jnp.exp(psi.log_variance))))
    grid = psi_grid(at, z, psi, mus, jax.random.key(9))
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(plan, along, grid, state)
    (options.out / f"{name}.md").write_text(text)
    picture(plan, along, grid, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
