"""Measurement 5: a whole step on Stable Diffusion 2.1-base at 512x512, part by part.

`configs/sds.py:sd21` on random weights of the full size (written to a folder and loaded
like anyone's), Gaussians, one view and four; the peak of memory beside what --dry_run
says beforehand.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import MEBI, compared, median_seconds, neighbour, peak_mib

from sdsjax.cli.budget import budget
from sdsjax.cli.checks import resolve
from sdsjax.models.loading import hub
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.training.build import build
from sdsjax.training.programs import first_state
from sdsjax.training.train_step import make_train_step

worker = neighbour("bench_networks", "worker")
VIEWS = {"small": (1,), "full": (1, 4)}
PIXELS = {"small": 64, "full": 512}


def write_folder(folder: Path, size: str) -> Path:
    """A folder in Stable Diffusion's layout with random weights of these sizes."""
    rng = np.random.default_rng(0)

    def drawn(name, config):
        def leaf(s):
            fan = max(1, int(np.prod(s.shape[:-1])))
            return (rng.standard_normal(s.shape, np.float32) * fan**-0.5).astype("f2")

        return config, jax.tree.map(leaf, hub.param_shapes(name, config))

    unet, vae = (worker.CONFIGS[job, size] for job in ("unet", "encoder"))
    vocab, merges = train_word_tokenizer(["a", "red", "snowman", "view"])
    width, layers = unet["cross_attention_dim"], 23 if size == "full" else 2
    text = CLIPTextConfig(
        len(vocab), width, 4 * width, layers, width // 64, 77, "gelu", 1e-5
    )
    unet, vae = (
        hub.COMPONENTS[name].read_config(said | {"sample_size": side})
        for name, said, side in (
            ("unet", unet, PIXELS[size] // 8), ("vae", vae, PIXELS[size])
        )
    )  # fmt: skip
    return save_stable_diffusion(
        folder, unet=drawn("unet", unet), vae=drawn("vae", vae),
        text_encoder=drawn("text_encoder", text), tokenizer=(vocab, merges),
    )  # fmt: skip


def parts_of(pieces, params, views: int) -> dict:
    """Seconds of the prior's encoder with its gradient and of its two predictions."""
    shape = (views, *pieces.source.image_shape)
    x = jnp.zeros(shape)

    def encode(params, x):
        z, pull = jax.vjp(jax.vmap(pieces.source.bind(params).encode), x)
        return pull(z)

    def noise(params, z):
        prior = pieces.source.bind(params)
        return jax.vmap(lambda z: prior.noise(z, jnp.int32(500), None))(z)

    z = jax.eval_shape(
        lambda p, x: jax.vmap(pieces.source.bind(p).encode)(x), params, x
    )
    z = jnp.zeros(z.shape, z.dtype)
    return compared(
        {"encode and pull back": (encode, (params, x)), "noise": (noise, (params, z))},
        5,
    )


def memory_said(config) -> float:
    """What --dry_run says of the memory, in MiB."""
    text = next(line for line in budget(config) if line.startswith("memory: "))
    found = re.search(r"([\d.]+) GiB", text)
    return 1024 * float(found.group(1)) if found else float("nan")


def measure(size: str, say) -> None:
    """Says, for one view and for more, the time of a step and its parts, and memory."""
    rows = {}
    with tempfile.TemporaryDirectory() as root:
        folder = write_folder(Path(root), size)
        for views in VIEWS[size]:
            said = {
                "prompt": "a red snowman", "prior.folder": str(folder),
                "batch_size": views, "resolution": PIXELS[size],
                "camera.first_steps": 0, "steps": 100, "scoring.truth": False,
                "prior.view_prompts": False,
            }  # fmt: skip
            config = resolve("sds:sd21", said)
            begun = time.perf_counter()
            pieces = build(config)
            params = jax.block_until_ready(pieces.source.params)
            loading = time.perf_counter() - begun
            rows[f"{views} view(s)"] = row = step_of(config, pieces, params)
            row["loading_seconds"] = loading
            say(rows=rows)
            row["parts"] = parts_of(pieces, params, views)
            row["memory_said_mib"] = memory_said(config)
            say(rows=rows, pixels=PIXELS[size])


def step_of(config, pieces, params) -> dict:
    """Compiles a training step and times it; the state goes from one to the next."""
    make, arguments = first_state(pieces, config)
    state, key = make(*arguments), jax.random.key(0)
    phase = pieces.phases[0]
    step = make_train_step(
        pieces.source, pieces.representation, pieces.estimator, pieces.optimizer,
        pieces.sampler, phase.cameras, total=config.steps,
    )  # fmt: skip
    begun = time.perf_counter()
    compiled = step.lower(state, params, key).compile()
    compiling = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    kept = [state]

    def call():
        kept[0], metrics = compiled(kept[0], params, key)
        jax.block_until_ready(metrics)

    return {
        "seconds": median_seconds(call),
        "compile_seconds": compiling,
        "arguments_mib": memory.argument_size_in_bytes / MEBI,
        "temporary_mib": memory.temp_size_in_bytes / MEBI,
        "peak_mib": peak_mib(),
    }
