"""Measurement 4: Stable Diffusion 2.1-base's UNet and encoder on random weights.

bfloat16, by batch; XLA's attention and cuDNN's; torch.compile with diffusers where they
are installed. The encoder with its gradient, as a step has it.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
from timing import compared, installed, median_seconds, neighbour, peak_mib

worker = neighbour("bench_networks", "worker")
BATCHES = {"small": (1,), "full": (2, 8, 16)}


def inputs_of(job: str, config: dict, batch: int):
    """Random inputs in bfloat16, 64x64 latents or 512x512 pixels at full size."""
    small = config["block_out_channels"][0] < 100
    side = (16 if small else 64) * (1 if job == "unet" else 8)
    shape = (batch, side, side, config["in_channels"])
    x = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    if job == "encoder":
        return (x,)
    text = (batch, worker.TOKENS, config["cross_attention_dim"])
    states = jax.random.normal(jax.random.key(1), text, jnp.bfloat16)
    return x, jnp.full(batch, 500), states


def network(job: str, config: dict):
    """(function of (params, *inputs), params in bfloat16)."""
    from sdsjax.models.loading import hub

    name = "unet" if job == "unet" else "vae"
    component = hub.COMPONENTS[name]
    read = component.read_config(config)
    module = component.module(read, dtype=jnp.bfloat16)
    shapes = hub.param_shapes(name, read)
    params = jax.tree.map(
        lambda s: jnp.full(s.shape, 0.02, jnp.bfloat16), shapes
    )  # a value: what is timed does not depend on it
    if job == "unet":
        return (lambda p, *given: module.apply({"params": p}, *given)), params

    def total(x, p):
        mean, _ = module.apply({"params": p}, x, method="encode")
        return jnp.sum(mean.astype(jnp.float32) ** 2)

    return (lambda p, x: jax.grad(total)(x, p)), params


def measure(size: str, say) -> None:
    """Says seconds and TFLOP/s by network, batch and kind of attention."""
    rows = {}
    for job in ("unet", "encoder"):
        config = worker.CONFIGS[job, size]
        function, params = network(job, config)
        for batch in BATCHES[size]:
            inputs = inputs_of(job, config, batch)
            for attention in ("", "xla"):
                os.environ["SDSJAX_ATTENTION"] = attention
                label = f"{job}, batch {batch}, {attention or 'chosen'} attention"
                # a new function: a traced one would be found again

                def fresh(*given, function=function):
                    return function(*given)

                found = compared({"it": (fresh, (params, *inputs))}, rounds=5)["it"]
                rows[label] = found
                say(rows=rows, peak_mib=peak_mib())
            if installed("diffusers") and installed("torch"):
                rows[f"{job}, batch {batch}, torch.compile"] = peer(job, config, batch)
                say(rows=rows)


def peer(job: str, config: dict, batch: int) -> dict:
    """diffusers' module in bfloat16 and channels last, compiled by torch."""
    try:
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel

        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = UNet2DConditionModel if job == "unet" else AutoencoderKL
        module = kind(**config).to(device, torch.bfloat16)
        module = module.to(memory_format=torch.channels_last).eval()
        module.requires_grad_(False)
        side = 16 if config["block_out_channels"][0] < 100 else 64
        side *= 1 if job == "unet" else 8
        shape = (batch, config["in_channels"], side, side)
        x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        if job == "unet":
            text = (batch, worker.TOKENS, config["cross_attention_dim"])
            states = torch.randn(text, device=device, dtype=torch.bfloat16)
            compiled = torch.compile(module)

            def call():
                with torch.no_grad():
                    compiled(x, 500, states)
                if device == "cuda":
                    torch.cuda.synchronize()

        else:
            encode = torch.compile(lambda x: module.encode(x).latent_dist.mean)

            def call():
                given = x.clone().requires_grad_(True)
                torch.autograd.grad((encode(given).float() ** 2).sum(), given)
                if device == "cuda":
                    torch.cuda.synchronize()

        return {"seconds": median_seconds(call, 5)}
    except Exception as error:
        return {"error": " ".join(str(error).split())[:200]}
