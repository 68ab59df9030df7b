"""Devices, time and memory of a run before it starts, and how figures were derived.

Networks: floating-point operations by XLA's own count of the lowered program where the
weights are at hand, else Stable Diffusion 2.1's published sizes; residuals of the
encoder from the shapes of its vector-Jacobian product. Rendering is not counted.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.backend import Target, compiling_for, target
from sdsjax.cameras import OrbitRange
from sdsjax.cli.prior_choice import BUILT_IN, KINDS
from sdsjax.distributed.parameters import bytes_a_device, is_split
from sdsjax.distributed.sharding import axis_size, describe
from sdsjax.exports.mesh import extraction_bytes
from sdsjax.training.build import (
    RunComponents,
    build,
    build_meshes,
    build_phases,
    build_representation,
)
from sdsjax.training.build.phases import phase_sizes
from sdsjax.training.config import ConfigError
from sdsjax.training.programs import Programs
from sdsjax.training.supervision import Attached
from sdsjax.types import PriorSource

GIB = 2.0**30
# Stable Diffusion 2.1-base: parameters of UNet and encoder-decoder; operations of two
# UNet branches and the encoder with its gradient, at 512x512; its residuals with
# rematerialisation in float32, bytes.
SD21_PARAMETERS = 865_910_724 + 83_653_863
SD21_NETWORK = 2 * 804e9
SD21_OPERATIONS = SD21_NETWORK + 2258e9
SD21_RESIDUALS = 610e6
# SDXL base likewise, by the side of the picture: two UNet branches and the encoder with
# its gradient, as XLA counts them on the lowered programs
SDXL_PARAMETERS = 2_567_463_684 + 83_653_863
SDXL_NETWORK = {512: 2 * 1580e9, 768: 2 * 3636e9, 1024: 2 * 6768e9}
SDXL_ENCODER = {512: 2257e9, 768: 5382e9, 1024: 10302e9}
# MVDream: parameters likewise; a view's share of a group of 4 at 256x256, where its
# UNet has Stable Diffusion's 181e9 operations and 23e9 of attention to other views
MVDREAM_PARAMETERS = 867_572_164 + 83_653_863
MVDREAM_NETWORK = 2 * 204e9
MVDREAM_OPERATIONS = MVDREAM_NETWORK + 2258e9 / 4
# DeepFloyd IF-I-XL: parameters of the UNet, operations of its two branches at 64x64;
# its encoder is the identity.
IF_PARAMETERS = 4_304_695_110
IF_OPERATIONS = 2 * 2879e9
# Stable Diffusion 3.5-medium: parameters without its table of positions, and with its
# VAE's; 1024 tokens of a 512x512 image with 333 of text
SD35_PARAMETERS = 2_243_171_520 + 83_819_683
SD35_NETWORK = 2 * 2443e9
SD35_OPERATIONS = SD35_NETWORK + 2258e9
# a target for which attention is neither cut into chunks nor another kernel's
PLAIN = Target("tpu")


class Cost(NamedTuple):
    """The cost of one view, and where its numbers are from.

    Operations and residual bytes kept for the pullback, of one view; network: those of
    the operations that every further noise repeats; parameters, of the prior.
    """

    operations: float
    network: float
    residuals: float
    parameters: int
    derived: str


def count(tree) -> int:
    """Array entries of a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def measured_speed(size: int = 1024, seconds: float = 0.2) -> float:
    """Operations a second of this device on a square matrix product, float32."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        product(x).block_until_ready()
        runs += 1
    return runs * 2 * size**3 / (time.perf_counter() - start)


def _encoder(source: PriorSource, resolution: int):
    # (encode with its pullback, a sample's x as a shape, its views)
    shape = source.image_shape or (resolution, resolution, 3)
    views = source.bind(source.params).group
    shape = shape if views == 1 else (views, *shape)

    def encode(params, x):
        return jax.vjp(source.bind(params).encode, x)

    return encode, jax.ShapeDtypeStruct(shape, jnp.float32), views


def encoder_residuals(source: PriorSource, resolution: int) -> float:
    """Counts the bytes that a view's encoder keeps for its gradient, from shapes."""
    encode, x, views = _encoder(source, resolution)
    residuals = jax.eval_shape(lambda p, x: encode(p, x)[1], source.params, x)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(source.params))
    return max(kept - held, 0) / views


def network_cost(source: PriorSource, resolution: int, noises: int = 1) -> Cost:
    """One view's cost, counted on the lowered program; nothing is compiled or run.

    noises: for each rendering; what a further one repeats is counted if there is any.
    Of a prior that sees several together, a view's share. Attention is counted as plain
    products whatever the device: XLA counts the body of a loop over chunks once, and of
    a kernel that is not its own nothing.
    """
    encode, x, views = _encoder(source, resolution)

    def one_sample(params, x, t):
        z, pull = encode(params, x)
        eps = source.bind(params).noise(z, t, None)
        direction: Any = eps
        return pull(direction.cond - direction.uncond)

    def one_noise(params, z, t):
        return source.bind(params).noise(z, t, None)

    def counted(function, *arguments):
        with compiling_for(PLAIN):
            lowered = jax.jit(function).lower(*arguments)
        return (lowered.cost_analysis() or {}).get("flops", 0.0) / views

    t, given = jax.ShapeDtypeStruct((), jnp.int32), source.params
    z = jax.eval_shape(lambda p, x: source.bind(p).encode(x), given, x)
    return Cost(
        counted(one_sample, given, x, t),
        counted(one_noise, given, z, t) if noises > 1 else 0.0,
        encoder_residuals(source, resolution),
        count(given.prior if isinstance(given, Attached) else given),
        "operations counted by XLA on the lowered program",
    )


def published_cost(name: str, dtype: str, xl_size: int | None = None) -> Cost:
    """The published cost of Stable Diffusion 2.1, XL or 3.5, MVDream or DeepFloyd IF.

    Their inputs count as 512x512, 256x256 and 64x64, whatever the config says; the
    prior's `name` says which. xl_size: of SDXL, the side of its pictures; else None.
    """
    if name == "deepfloyd":
        derived = "published sizes of DeepFloyd IF-I-XL: the weights are not local"
        return Cost(IF_OPERATIONS, IF_OPERATIONS, 0.0, IF_PARAMETERS, derived)
    share = 0.5 if dtype == "bfloat16" else 1.0
    if name == "stable_diffusion3":
        derived = "published sizes of Stable Diffusion 3.5-medium: not local"
        kept = SD21_RESIDUALS * share
        return Cost(SD35_OPERATIONS, SD35_NETWORK, kept, SD35_PARAMETERS, derived)
    if name == "multiview":
        derived = "published sizes of MVDream: the weights are not local"
        kept = SD21_RESIDUALS * share / 4
        return Cost(
            MVDREAM_OPERATIONS, MVDREAM_NETWORK, kept, MVDREAM_PARAMETERS, derived
        )
    if xl_size is not None:
        side = min((s for s in SDXL_NETWORK if s >= xl_size), default=1024)
        derived = f"SDXL base's sizes at {side}x{side}: the weights are not local"
        kept = SD21_RESIDUALS * share * (side / 512) ** 2
        network = SDXL_NETWORK[side]
        whole = network + SDXL_ENCODER[side]
        return Cost(whole, network, kept, SDXL_PARAMETERS, derived)
    return Cost(
        SD21_OPERATIONS,
        SD21_NETWORK,
        SD21_RESIDUALS * share,
        SD21_PARAMETERS,
        "published sizes of Stable Diffusion 2.1-base: the weights are not local",
    )


def _is_local(config) -> bool:
    prior = config.prior
    built_in = (BUILT_IN / prior.folder).is_dir()
    return (
        prior.name not in KINDS or built_in or Path(prior.folder).expanduser().exists()
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sized(number: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def bytes_available(device) -> int | None:
    """The bytes of memory that a device has, None where that is not known.

    What JAX may take of an accelerator; on the CPU this process's devices share the
    host's.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    host = target().platform == "cpu"
    if limit is None and host and hasattr(os, "sysconf"):
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit //= jax.local_device_count()
    return limit


def memory_plan(config, prior: int, kept: float, states: int, meshes) -> list[str]:
    """Lines on how devices are laid out, and on the bytes that each must hold.

    prior: bytes of its parameters on one device; kept: encoder residuals of one view;
    states: parameters, gradients and moments, whole on each device; meshes: of the
    phases.
    """
    mesh, batches = meshes[-1], [size[-1] for size in phase_sizes(config)]
    views = max(n // axis_size(m, "data") for n, m in zip(batches, meshes))
    memory, device = prior + views * kept + states, jax.devices()[0]
    whole = f"memory: about {memory / GIB:.2f} GiB"
    lines = [
        f"devices: {describe(mesh)}",
        f"{whole if mesh is None else whole + ' a device'} (prior, optimizer, encoder "
        f"residuals of {views} view(s)); rendering and scratch space are not counted",
    ]
    split = axis_size(mesh, "model")
    if split > 1:
        lines.append(
            f"a device holds {prior / GIB:.3f} GiB of the prior: kernels are split "
            f'{split} ways over "model", biases, norms and small ones are '
            "whole; the text encoder is split alike, and freed once it has read the "
            "prompt"
        )
    limit = bytes_available(device)
    if limit is not None and memory > limit:
        lines.append(
            f"this will not fit: {memory / GIB:.2f} GiB a device, and "
            f"{device.device_kind} has {limit / GIB:.2f}: lower batch_size or "
            "resolution, set prior.dtype=bfloat16, or split the prior over more "
            f"devices (mesh.model, now {split})"
        )
    return lines


def compiled_plan(config, pieces: RunComponents) -> list[str]:
    """Lines on what XLA has planned for each phase's step, which is compiled for it."""
    programs, device = Programs(config, pieces), jax.devices()[0]
    limit, lines = bytes_available(device), []
    for phase in pieces.phases:
        held, scratch = programs.step_memory(phase)
        line = (
            f"memory of a step to step {phase.last}: {(held + scratch) / GIB:.3f} GiB "
            f"a device by XLA's plan: {held / GIB:.3f} of prior, state and results, "
            f"{scratch / GIB:.3f} of scratch space"
        )
        if limit is not None and held + scratch > limit:
            line += (
                f"; this will not fit: {device.device_kind} has {limit / GIB:.2f}: set "
                "microbatch=1, prior.dtype=bfloat16, or a lower batch_size"
            )
        lines.append(line)
    return lines


def budget(config, compiled: bool = False) -> list[str]:
    """Lines on parameters, operations, devices, time and memory of a run.

    Loads weights where they are local, writes nothing. compiled: compile the steps, for
    XLA's own figure of their memory. Raises MeshError for devices that cannot be laid
    out as the config asks, ConfigError for `compiled` without weights.
    """
    meshes = build_meshes(config)
    width = 2 if config.prior.dtype == "bfloat16" else 4
    pieces = None
    if _is_local(config):
        pieces = build(config)
        cost = network_cost(pieces.source, config.resolution, config.samples_per_view)
        representation, phases = pieces.representation, pieces.phases
        held = _on_one_device(pieces.source.params, cost.parameters * width)
    else:
        # of a repository that is not here only the name is known
        xl = "xl" in config.prior.folder.lower()
        size = config.prior.image_size or 1024
        cost = published_cost(
            config.prior.name, config.prior.dtype, size if xl else None
        )
        side = config.resolution
        representation = build_representation(config, (side, side, 3))
        phases = build_phases(config, OrbitRange())
        held = cost.parameters * width // config.mesh.model
    params, _ = jax.eval_shape(representation.init, jax.random.key(0))
    views = sum((p.last - p.first) * p.batch_size for p in phases)
    speed = measured_speed()
    # parameters, gradients and two moments of Adam
    states = 4 * 4 * count(params)
    noises = config.samples_per_view
    operations = cost.operations + (noises - 1) * cost.network
    total, said = views * operations, f", {noises} noises each" if noises > 1 else ""
    lines = [
        f"parameters: {config.representation.name} {_sized(count(params))}, "
        f"prior {_sized(cost.parameters)}",
        f"network operations: {_sized(operations)}FLOP a view, {_sized(views)} "
        f"views{said}, {_sized(total)}FLOP in all ({cost.derived})",
        f"network time: {_duration(total / speed)} to {_duration(4 * total / speed)}, "
        f"at 100% to 25% of the {_sized(speed)}FLOP/s that a float32 matrix product "
        f"just reached here ({jax.devices()[0].device_kind}), of one device; "
        "compilation, rendering and exports are not counted",
        *memory_plan(config, held, cost.residuals, states, meshes),
    ]
    if compiled:
        if pieces is None:
            raise ConfigError(
                f"--compile: the weights of {config.prior.folder} are not local, and "
                "the step is made of them: fetch them first, or leave it out"
            )
        lines += compiled_plan(config, pieces)
    if config.representation.name != "image":
        side = config.exports.mesh_resolution
        lines.append(
            f"memory of the mesh: at most about {extraction_bytes(side) / GIB:.2f} GiB "
            f"of the host's, once trained (exports.mesh_resolution = {side}, scratch "
            "space of a field's network is not counted)"
        )
    return lines


def _on_one_device(params, whole: int) -> int:
    # bytes of a prior's parameters; `whole` where the loader did not split them
    given = params.prior if isinstance(params, Attached) else params
    if any(is_split(leaf) for leaf in jax.tree.leaves(given)):
        return bytes_a_device(given)
    return whole
