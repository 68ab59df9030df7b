"""One peer in one process: builds a network, warms it up, then times calls.

A call for each line it is given. Speaks JSON lines on stdout; started by run.py.

    python worker.py PEER JOB SIZE        PEER: ours, torch, flax, machine
"""

from __future__ import annotations

import json
import resource
import sys
import time
from unittest import mock

import numpy as np

UNET = {
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
    "use_linear_projection": True, "sample_size": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512], "sample_size": 512,
    "scaling_factor": 0.18215, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
SMALL_UNET = UNET | {
    "block_out_channels": [64, 128, 256, 256], "attention_head_dim": [2, 4, 8, 8],
    "cross_attention_dim": 256,
}  # fmt: skip
SMALL_VAE = VAE | {"block_out_channels": [32, 64, 128, 128]}
CONFIGS = {
    ("unet", "full"): UNET,
    ("unet", "small"): SMALL_UNET,
    ("encoder", "full"): VAE,
    ("encoder", "small"): SMALL_VAE,
}
BATCH, LATENT, PIXELS, TOKENS = 2, 64, 256, 77


def arrays(job: str, config: dict) -> tuple[np.ndarray, ...]:
    """The job's inputs, channels last: (z, t, states) or (x,)."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    if job == "encoder":
        return (normal(1, PIXELS, PIXELS, 3),)
    states = normal(BATCH, TOKENS, config["cross_attention_dim"])
    return normal(BATCH, LATENT, LATENT, 4), np.full(BATCH, 500, np.int32), states


def filled(shapes):
    """Random parameters: a kernel's entries have the variance 1 / fan-in."""
    import jax

    rng = np.random.default_rng(1)

    def leaf(s):
        fan = max(1, int(np.prod(s.shape[:-1])))
        return rng.standard_normal(s.shape, dtype=np.float32) * fan**-0.5

    return jax.tree.map(leaf, shapes)


def timed_jax(function, *inputs):
    """(call, flops as XLA counts them)."""
    import jax

    inputs = jax.device_put(inputs)
    compiled = jax.jit(function).lower(*inputs).compile()
    flops = compiled.cost_analysis()["flops"]
    return lambda: jax.block_until_ready(compiled(*inputs)), flops


def ours(job: str, config: dict):
    import jax
    import jax.numpy as jnp

    from sdsjax.models import attention
    from sdsjax.models.loading import hub

    def timed(function, *inputs):
        # XLA counts a loop's body once: count without attention's loops over chunks
        with mock.patch.object(attention, "LARGE", 2**62):
            lowered = jax.jit(lambda *given: function(*given)).lower(*inputs)
        flops = lowered.cost_analysis()["flops"]
        return timed_jax(function, *inputs)[0], flops

    name = "unet" if job == "unet" else "vae"
    read = hub.COMPONENTS[name].read_config(config)
    module = hub.COMPONENTS[name].module(read)
    params = filled(hub.param_shapes(name, read))
    if job == "unet":
        return timed(
            lambda p, *given: module.apply({"params": p}, *given),
            params,
            *arrays(job, config),
        )

    def size(x, p):
        mean, _ = module.apply({"params": p}, x, method="encode")
        return jnp.sum(mean**2)

    return timed(jax.grad(size), *arrays(job, config), params)


def flax(job: str, config: dict):
    """The last diffusers with Flax (0.39.0), in an environment of its own."""
    import jax
    import jax.numpy as jnp
    from diffusers import FlaxAutoencoderKL, FlaxUNet2DConditionModel

    kind = FlaxUNet2DConditionModel if job == "unet" else FlaxAutoencoderKL
    module = kind.from_config(config)
    params = filled(jax.eval_shape(module.init_weights, jax.random.key(0)))
    given = arrays(job, config)
    first = np.ascontiguousarray(np.moveaxis(given[0], -1, 1))
    if job == "unet":
        return timed_jax(
            lambda p, *z: module.apply({"params": p}, *z).sample,
            params,
            first,
            *given[1:],
        )

    def size(x, p):
        latent = module.apply({"params": p}, x, method=module.encode).latent_dist
        return jnp.sum(latent.mean**2)

    return timed_jax(jax.grad(size), first, params)


def torch(job: str, config: dict):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    module = (UNet2DConditionModel if job == "unet" else AutoencoderKL)(**config)
    module.eval().requires_grad_(False)
    given = [torch.from_numpy(a) for a in arrays(job, config)]
    first = given[0].movedim(-1, 1).contiguous()

    def unet():
        with torch.no_grad():
            return module(first, *given[1:]).sample

    def encoder():
        x = first.clone().requires_grad_(True)
        mean = module.encode(x).latent_dist.mean
        return torch.autograd.grad((mean**2).sum(), x)

    return (unet if job == "unet" else encoder), None


def machine(job: str, config: dict):
    """The machine's own rate: the job's largest convolution, or a matrix product."""
    import jax
    import jax.numpy as jnp

    width = config["block_out_channels"][0]
    side = LATENT if job == "unet" else PIXELS
    rng = np.random.default_rng(2)
    x = rng.standard_normal((BATCH, side, side, width), dtype=np.float32)
    kernel = rng.standard_normal((3, 3, width, width), dtype=np.float32)
    flat = x.reshape(-1, width)
    square = kernel.reshape(-1, width).T  # [c, 9c]: as wide as the convolution

    def convolve(x, kernel, flat, square):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y, jnp.dot(flat, square)

    return timed_jax(convolve, x, kernel, flat, square)


PEERS = {"ours": ours, "torch": torch, "flax": flax, "machine": machine}


def main() -> None:
    peer, job, size = sys.argv[1:4]
    call, flops = PEERS[peer](job, CONFIGS[job, size])
    call()

    def say(**what):
        print(json.dumps(what), flush=True)

    say(flops=flops)
    for _ in sys.stdin:
        begun = time.perf_counter()
        call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        say(seconds=time.perf_counter() - begun, peak_gib=peak)


if __name__ == "__main__":
    main()
