"""Measurement 3: the rasteriser's kernels, right first, then their time, and gsplat's.

Forward and backward of a fixed functional of rgb, opacity and depth. A kernel is right
where its picture and its gradient are those of the dense reference, on a small scene.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from timing import compared, installed, median_seconds, neighbour, peak_mib

from sdsjax.render.spherical_harmonics import C0
from sdsjax.render.splatting import rasterize

scenes = neighbour("bench_rasterize", "scenes")
SCENES = {
    "small": ((500, 64),),
    "full": ((5000, 256), (20_000, 256), (100_000, 512)),
}
CHECKED = scenes.Scene(300, 48)


def gradient(scene, draw):
    """(gaussians, camera) -> gradients of all that is learnt."""
    pull = jax.random.normal(jax.random.key(2), (scene.size, scene.size, 5))

    def value(learnt, alive, camera):
        drawn = draw(scenes.Gaussians(*learnt, alive=alive), camera)
        picture = (drawn.rgb, drawn.opacity[..., None], drawn.depth[..., None])
        return jnp.sum(jnp.concatenate(picture, axis=-1) * pull)

    return lambda gaussians, camera: jax.grad(value)(
        gaussians[:5], gaussians.alive, camera
    )


def first_camera(scene):
    return jax.tree.map(lambda a: a[0], scenes.cameras_of(scene))


def drawing(kernel: str):
    """A kernel of the rasteriser, as one argument of `gradient`."""
    return lambda gaussians, camera: rasterize.rasterize(
        gaussians, camera, background=jnp.ones(3), kernel=kernel
    )


def error_of(draw) -> dict[str, float]:
    """How far picture and gradient are from the dense reference's, relative."""
    arguments = scenes.gaussians_of(CHECKED), first_camera(CHECKED)

    def dense(gaussians, camera):
        return rasterize.rasterize_reference(gaussians, camera, background=jnp.ones(3))

    def apart(a, b):
        a, b = (
            jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (a, b)
        )
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    return {
        "picture": apart(draw(*arguments).rgb, dense(*arguments).rgb),
        "gradient": apart(
            jax.jit(gradient(CHECKED, draw))(*arguments),
            jax.jit(gradient(CHECKED, dense))(*arguments),
        ),
    }


def error_or_why(kernel: str) -> dict:
    """`error_of` a kernel, or why it does not run (what is not installed, too)."""
    try:
        return error_of(drawing(kernel))
    except Exception as error:
        return {"error": " ".join(str(error).split())[:200]}


def measure(size: str, say) -> None:
    """Says each kernel's error, then seconds by scene, kernels and peers in turn."""
    kernels = list(rasterize.KERNELS)
    say(error={kernel: error_or_why(kernel) for kernel in kernels})
    rows = {}
    for count, side in SCENES[size]:
        scene = scenes.Scene(count, side)
        arguments = scenes.gaussians_of(scene), first_camera(scene)
        calls = {k: (gradient(scene, drawing(k)), arguments) for k in kernels}
        rows[scene.label] = compared(calls)
        if installed("gsplat"):
            rows[scene.label]["gsplat"] = gsplat(scene, *arguments)
        say(scenes=rows, peak_mib=peak_mib())


def gsplat(scene, gaussians, camera) -> dict:
    """gsplat 1.5's time for the same: rgb, opacity and expected depth."""
    try:
        import numpy as np
        import torch
        from gsplat import rasterization

        def tensor(x, learnt=True):
            made = torch.tensor(np.array(x), device="cuda")
            return made.requires_grad_(learnt)

        means, scales, quats = (
            tensor(x)
            for x in (gaussians.means, jnp.exp(gaussians.log_scales), gaussians.quats)
        )
        opacities = tensor(jax.nn.sigmoid(gaussians.opacity_logits))
        colors = tensor(jnp.maximum(C0 * gaussians.sh[:, 0] + 0.5, 0.0))
        focal, middle = np.asarray(camera.focal), np.asarray(camera.principal)
        inner = [[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]]
        inner = torch.tensor(inner, dtype=torch.float32, device="cuda")[None]
        pose = tensor(camera.world_to_camera, learnt=False)[None]
        pull = torch.randn(1, scene.size, scene.size, 4, device="cuda")

        def call():
            drawn, opacity, _ = rasterization(
                means, quats, scales, opacities, colors, pose, inner, scene.size,
                scene.size, render_mode="RGB+ED", packed=False,
            )  # fmt: skip
            ((drawn * pull).sum() + (opacity * pull[..., :1]).sum()).backward()
            torch.cuda.synchronize()

        return {"seconds": median_seconds(call)}
    except Exception as error:
        return {"error": " ".join(str(error).split())[:200]}
