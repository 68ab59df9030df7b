"""What is distilled: HiFA's variants on a small field, scored against the truth."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sdsjax.studies.report import save_picture

SIZE = 32


class Variant(NamedTuple):
    """What is changed against HiFA, and the variant that figures are compared with.

    HiFA: z-variance, smoothing, both spaces, square root.
    """

    changed: dict[str, Any]
    against: str = "HiFA"


NO_SPREAD = {"losses.z_variance": 0.0}
VARIANTS = {
    "HiFA": Variant({}),
    "distortion": Variant(NO_SPREAD | {"losses.distortion": 100.0}),
    "distortion x 10": Variant(NO_SPREAD | {"losses.distortion": 1000.0}),
    "z-variance x 10": Variant({"losses.z_variance": 3000.0}),
    "no z-variance": Variant(NO_SPREAD),
    "4 DDIM steps": Variant({"estimator.steps": 4}),
    "no smoothing": Variant({"representation.kernel": 1}),
    "linear t": Variant({"timesteps.name": "linear"}),
    "cosine t": Variant({"timesteps.name": "cosine"}),
    "uniform t": Variant({"timesteps.name": "uniform"}),
    # Without z-variance: its weight would count for more beside half of the estimate,
    # while Adam does not see the size of what is left.
    "latent only": Variant(
        NO_SPREAD | {"estimator.lambda_rgb": 0.0}, against="no z-variance"
    ),
    "image only": Variant(
        NO_SPREAD | {"estimator.lambda_latent": 0.0}, against="no z-variance"
    ),
}


class Plan(NamedTuple):
    """prompts and seeds of every variant, steps of a run."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int


def settings(plan: Plan, variant: str, prompt: str) -> dict[str, Any]:
    """The overrides of hifa:toybox.

    Without the depth loss, whose estimate is weak; guidance scale and the weights of
    z-variance and distortion were tried on "a red mug" and "a green chair" (README.md).
    """
    base = {
        "prompt": prompt,
        "steps": plan.steps,
        "estimator.steps": 1,
        "representation.levels": 6,
        "representation.ramp_steps": plan.steps // 2,
        "estimator.guidance_scale": 7.5,
        "losses.z_variance": 300.0,
        "losses.depth": 0.0,
        "prior.depth_folder": "",
    }
    return base | VARIANTS[variant].changed


class VariantRuns:
    """One variant's compiled step, reused over prompts and seeds."""

    def __init__(self, plan: Plan, variant: str):
        from sdsjax.cli.checks import resolve
        from sdsjax.training.build import build
        from sdsjax.training.train_step import init_state, make_train_step

        def build_run(prompt):
            return build(resolve("hifa:toybox", settings(plan, variant, prompt)))

        self.plan, self.build = plan, build_run
        made = build_run(plan.prompts[0])
        cameras = made.phases[-1].cameras
        parts = (made.source, made.representation, made.estimator, made.optimizer)
        self.start = jax.jit(partial(init_state, *parts, cameras))
        self.step = make_train_step(
            *parts, made.sampler, cameras, total=plan.steps, supervise=made.supervise
        )
        self.render = jax.jit(
            lambda params, state, camera: made.representation.render(
                params, state, camera, None
            )
        )

    def run(self, prompt: str, seed: int, strip: Path) -> dict[str, Any]:
        """Distils, scores against the truth, and leaves a strip of views."""
        from sdsjax.toybox.scoring.score import score

        # the prompt is among the prior's parameters: nothing is compiled anew
        prior_params = self.build(prompt).source.params
        key = jax.random.key(seed)
        state = self.start(prior_params, jax.random.fold_in(key, 2**31))
        began = time.perf_counter()
        metrics: dict = {}
        for _ in range(self.plan.steps):
            state, metrics = self.step(state, prior_params, key)
        assert bool(metrics["finite"])
        seconds = time.perf_counter() - began
        draw = partial(self.render, state.params, state.rep_state)
        truth = score(draw, prompt, size=SIZE)
        save_picture(strip_of(draw), strip)
        row = {name: truth[name] for name in ("iou", "depth_error", "psnr", "chamfer")}
        return row | {"flicker": flicker(draw), "seconds": round(seconds, 1)}


def strip_of(draw) -> np.ndarray:
    """The asset from the front, the left and behind, rgb [h 3w 3]."""
    from sdsjax.cameras import orbit_camera

    views = [orbit_camera(a, 15.0, width=SIZE, height=SIZE) for a in (0, 90, 180)]
    return np.concatenate([np.asarray(draw(view).rgb) for view in views], axis=1)


def flicker(draw, frames: int = 9, degrees: float = 0.25) -> float:
    """How much pictures flicker, times 1000, while the camera turns.

    The root mean square of the second difference in time, over the pixels that are
    ever covered, of frames a quarter of a degree apart: what moves evenly cancels.
    """
    from sdsjax.cameras import orbit_camera

    drawn = [
        draw(orbit_camera(30.0 + k * degrees, 15.0, width=SIZE, height=SIZE))
        for k in range(frames)
    ]
    rgb = np.stack([np.asarray(d.rgb) for d in drawn])
    seen = np.any([np.asarray(d.opacity) > 0.1 for d in drawn], axis=0)
    if not seen.any():
        return float("nan")
    bent = (rgb[2:] - 2 * rgb[1:-1] + rgb[:-2])[:, seen]
    return 1e3 * float(np.sqrt(np.mean(bent**2)))
