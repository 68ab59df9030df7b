"""A league of all estimators: one exact prior, equal network calls, tuned on other
prompts with an equal budget, scored against the truth; see README.md. One JSON line an
estimator in `results/exact.jsonl`: what is there is not run again.

    python experiments/league/run.py            # exact prior, pictures: minutes
    python experiments/league/run.py --only sds ssd
    python experiments/league/run.py --full     # toybox-sd, Gaussians: quality.py
    python experiments/league/run.py --full --noise   # its variance and bias: noise.py
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.gradient_stats import bias_between, describe_groups
from sdsjax.diagnostics.moments import Draw, observe
from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.files.atomic import read_rows
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.exact_run import distil, nearest_psnr, toybox_pictures
from sdsjax.toybox.training.degrade import blur
from sdsjax.types import Estimator

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
TUNE = ("a red mug", "a green chair")
REPORT = ("a red snowman", "a blue house", "a yellow duck", "an orange cat")
# Noise as DreamFusion draws it, and a width for every picture: on point masses with
# falling t all that seek a mode arrive, and nothing tells them apart (README.md).
SAMPLER = TIMESTEPS["uniform"]()
SPREAD = 0.005
BLUR = 1.5  # pixels: the deviation of the blurred copies


class Entry(NamedTuple):
    """make: setting -> Estimator (the setting may be traced unless `static`); what it
    is called; its two candidates; branches of the prior a step (a backward pass of
    VSD's adapter counts as two)."""

    make: Callable[..., Estimator]
    setting: str
    candidates: tuple[float, float]
    branches: int
    static: bool = False


def by_power(name: str, **fixed):
    """An estimator without a scale is tuned by w(t) = sigma^p instead."""
    return lambda p: ESTIMATORS[name](SCHEDULE, weighting=lambda a, s: s**p, **fixed)


def by_scale(name: str, **fixed):
    return lambda s: ESTIMATORS[name](SCHEDULE, guidance_scale=s, **fixed)


POWER, SCALE = "p of w = sigma^p", "guidance scale"
ENTRIES = {
    "sds": Entry(by_scale("sds"), SCALE, (7.5, 50.0), 2),
    "mode_seeking": Entry(by_power("mode_seeking"), POWER, (0.0, 2.0), 1),
    "mode_seeking_sds": Entry(by_power("mode_seeking_sds"), POWER, (0.0, 2.0), 1),
    "mode_seeking_adaptive": Entry(
        by_power("mode_seeking_adaptive"), POWER, (0.0, 2.0), 1
    ),
    "mode_disengaging": Entry(by_power("mode_disengaging"), POWER, (0.0, 2.0), 2),
    "ssd": Entry(
        lambda m: ESTIMATORS["ssd"](SCHEDULE, threshold=m), "M", (300.0, 700.0), 2, True
    ),
    "csd": Entry(
        by_power("csd", negative=-0.5, negative_end=-0.5), POWER, (0.0, 2.0), 3
    ),
    "nfsd": Entry(by_scale("nfsd"), SCALE, (7.5, 50.0), 3),
    "stein": Entry(by_scale("stein", fit="element"), SCALE, (7.5, 50.0), 2),
    "vsd": Entry(by_scale("vsd", adapter_lr=0.01), SCALE, (7.5, 50.0), 6),
    "denoised_l2": Entry(by_scale("denoised_l2"), SCALE, (7.5, 50.0), 2),
    "sds_plus": Entry(by_scale("sds_plus", steps=4), SCALE, (7.5, 50.0), 8),
    "ism": Entry(by_scale("ism", steps=2), SCALE, (1.0, 7.5), 5),
    "sdi": Entry(by_scale("sdi", steps=3), SCALE, (7.5, 50.0), 8),
}


class Plan(NamedTuple):
    """pixels a side, views a caption, evaluations of the prior a run, Adam's rates,
    seeds, samples for variance and bias."""

    size: int
    views: int
    branches: int
    rates: tuple[float, float]
    seeds: int
    samples: int


SMALL = Plan(32, 6, 960, (0.01, 0.03), 2, 512)


class Field(NamedTuple):
    """The pictures [captions views ...], tuning captions first. The prior knows as many
    blurred ones, which no caption keeps; they are what the negative prompt names."""

    pictures: np.ndarray

    def prior(self, caption):
        """Of one caption; its number may be traced."""
        captions, views, *shape = self.pictures.shape
        sharp = jnp.asarray(self.pictures.reshape(-1, *shape))
        count = len(sharp)
        means = jnp.concatenate([sharp, blur(sharp, jnp.full(count, BLUR))])
        one = jnp.ones(2 * count)
        of = jnp.repeat(jnp.arange(captions), views)
        kept = jnp.concatenate([of == caption, jnp.zeros(count, bool)])
        return gaussian_mixture(
            SCHEDULE, one, means, SPREAD * one, kept,
            negative=np.arange(2 * count) >= count,
        )  # fmt: skip


def make_runner(entry: Entry, plan: Plan, field: Field, setting=None) -> Callable:
    """(setting, rate, caption, keys [s]) -> (PSNR to the nearest true picture of the
    caption [s], whether the nearest of all is one of them [s], z [s ...])."""
    steps = plan.branches // entry.branches
    pictures = jnp.asarray(field.pictures)

    def one(value, rate, caption, key):
        estimator = entry.make(value if setting is None else setting)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, pictures.shape[2:])
        z = distil(
            field.prior(caption), estimator, SAMPLER, start, key_run,
            steps=steps, rate=rate,
        ).z[-1]  # fmt: skip
        each = jax.vmap(lambda truth: nearest_psnr(z, truth))(pictures)
        return each[caption], jnp.argmax(each) == caption, z

    return jax.jit(jax.vmap(one, (None, None, None, 0)))


def seeds_of(plan: Plan, caption: int):
    return jax.random.split(jax.random.key(100 + caption), plan.seeds)


def pack(z: np.ndarray) -> str:
    """x in [-1, 1], clipped, as one byte a number, in base64."""
    levels = np.round(255 * np.clip(0.5 * z + 0.5, 0, 1)).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """rgb in [0, 1] of `pack`'s text."""
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    return levels.reshape(shape) / 255


def tune_and_report(entry: Entry, plan: Plan, field: Field) -> dict:
    """The best of 2 settings x 2 rates by mean PSNR on TUNE, then REPORT's scores
    [captions seeds], pictures of the first seed, and CPU seconds a run."""
    shared = None if entry.static else make_runner(entry, plan, field)
    runners = {
        value: shared or make_runner(entry, plan, field, value)
        for value in entry.candidates
    }

    def run(value, rate, caption):
        keys = seeds_of(plan, caption)
        return jax.device_get(runners[value](value, rate, caption, keys))

    tried = {
        (value, rate): np.mean([run(value, rate, c)[0] for c in range(len(TUNE))])
        for value in entry.candidates
        for rate in plan.rates
    }
    best = max(tried, key=tried.get)
    began = time.process_time()
    found = [run(*best, len(TUNE) + c) for c in range(len(REPORT))]
    seconds = (time.process_time() - began) / (len(REPORT) * plan.seeds)
    return {
        "setting": best[0],
        "rate": best[1],
        "tried": [[*key, float(score)] for key, score in tried.items()],
        "psnr": [scores.tolist() for scores, _, _ in found],
        "named": float(np.mean([named for _, named, _ in found])),
        "pictures": pack(np.stack([z[0] for _, _, z in found])),
        "seconds": seconds,
    }


def variance_and_bias(entry: Entry, plan: Plan, field: Field, value: float) -> dict:
    """tr Cov / |E G|^2 of one sample, and the cosine of E G with E[e_y - eps], at .7 of
    a true picture and .3 of the next one, t uniform in [20, 980], w as tuned."""
    first = len(TUNE)
    prior = field.prior(first)
    pictures = field.pictures[first]
    z = jnp.asarray(0.7 * pictures[0] + 0.3 * pictures[1])
    uniform = TIMESTEPS["uniform"]()
    reference = ESTIMATORS["mode_seeking_sds"](SCHEDULE)
    estimator = entry.make(value)
    state = estimator.init(prior, jax.random.key(1), jax.eval_shape(lambda: z))

    def sample(key):
        key_t, key_noise = jax.random.split(key)
        t = uniform(key_t, 0, 1, ())
        found = estimator.estimate(prior, key_noise, state, z, t, None)
        grad = found.grad if found.image_grad is None else found.grad + found.image_grad
        other = reference.estimate(prior, key_noise, (), z, t, None).grad
        return Draw({"own": grad, "reference": other}, {})

    @jax.jit
    def measure(key):
        found, _ = observe(sample, key, samples=plan.samples)
        bias = bias_between(found["own"], found["reference"])
        return describe_groups(found["own"]).snr, bias.cosine

    snr, cosine = jax.device_get(measure(jax.random.key(2)))
    value = float(snr.value)
    return {
        "noise": (1 / value, float(snr.error) / value**2),
        "cosine": (float(cosine.value), float(cosine.error)),
    }


def mean_psnr(row: dict) -> float:
    return float(np.mean(row["psnr"]))


def table(plan: Plan, results: dict) -> str:
    """Markdown, best first."""
    lines = [
        f"{len(TUNE) + len(REPORT)} captions x {plan.views} pictures, {plan.size} x "
        f"{plan.size}, each with variance {SPREAD}; {plan.branches} evaluations of the "
        f"prior a run; {len(REPORT)} reported captions x {plan.seeds} seeds (+-: "
        "standard error over captions; in brackets: mean spread over seeds).",
        "",
        "| estimator | setting | rate | steps | PSNR, dB | named rightly | tr Cov / "
        "signal | cosine with E[e_y - eps] | CPU s a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(results, key=lambda name: -mean_psnr(results[name])):
        r, entry = results[name], ENTRIES[name]
        scores = np.array(r["psnr"])
        each = scores.mean(1)
        error = each.std(ddof=1) / np.sqrt(len(each))
        spread = scores.std(1, ddof=1).mean()
        (noise, noise_error), (cosine, cosine_error) = r["noise"], r["cosine"]
        cells = (
            name,
            f"{entry.setting} {r['setting']:g}",
            f"{r['rate']:g}",
            f"{plan.branches // entry.branches}",
            f"{each.mean():.1f} +- {error:.1f} ({spread:.1f})",
            f"{r['named']:.2f}",
            f"{noise:.3g} +- {noise_error:.1g}",
            f"{cosine:.3f} +- {cosine_error:.1g}",
            f"{r['seconds']:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(results: dict, field: Field, path: Path) -> None:
    """A column an estimator, best first; a row a reported caption; the truth last."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    order = sorted(results, key=lambda name: -mean_psnr(results[name]))
    figure, grid = plt.subplots(
        len(REPORT), len(order) + 1, squeeze=False,
        figsize=(1.05 * (len(order) + 1), 1.2 * len(REPORT) + 0.6),
        layout="constrained",
    )  # fmt: skip
    truth = field.pictures[len(TUNE) :, 0]
    drawn = [unpack(results[name]["pictures"], truth.shape) for name in order]
    drawn.append(0.5 * truth + 0.5)
    for row, caption in enumerate(REPORT):
        titles = [n.replace("mode_", "mode\n").replace("_", " ") for n in order]
        for axis, rgb, title in zip(grid[row], drawn, [*titles, "a true\nview"]):
            axis.imshow(rgb[row], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=7)
        grid[row, 0].set_ylabel(caption, fontsize=6)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if "--full" in argv and "--noise" in argv:
        import noise  # it has options of its own

        noise.main(argv)
        return
    if "--full" in argv:
        import quality  # so has it

        quality.main(argv)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="toybox-sd: quality.py")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    field = Field(toybox_pictures((*TUNE, *REPORT), views=SMALL.views, size=SMALL.size))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "exact.jsonl"
    for label in options.only:
        if label in read_rows(rows, "estimator"):
            continue
        print(label, flush=True)
        row = {"estimator": label} | tune_and_report(ENTRIES[label], SMALL, field)
        row |= variance_and_bias(ENTRIES[label], SMALL, field, row["setting"])
        with rows.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    results = read_rows(rows, "estimator")
    text = table(SMALL, results)
    (options.out / "exact.md").write_text(text)
    picture(results, field, options.out / "exact.png")
    print(text)


if __name__ == "__main__":
    main()
