"""What is compiled for: the device in use, or what is said; asked in one place only."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import sdsjax
from sdsjax.backend import Target, compiling_for, target
from sdsjax.render.splatting.rasterize import default_plan
from sdsjax.representations.radiance_field.ray_chunks import default_chunk_size
from sdsjax.runs.compile_cache import light_compilation

PACKAGE = Path(sdsjax.__file__).parent
CPU, H100, TPU = Target("cpu"), Target("cuda", (9, 0)), Target("tpu")


class Device:
    platform, compute_capability = "gpu", "8.6"

    class client:
        platform_version = "cuda 12090"


class TPUDevice:
    platform = "tpu"


def test_the_facts_of_a_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert target() == ("cuda", (8, 6))
    monkeypatch.setattr(Device.client, "platform_version", "rocm 6")
    assert target() == ("rocm", (0, 0))
    monkeypatch.setattr(jax, "devices", lambda: [TPUDevice])
    assert target() == ("tpu", (0, 0))


def test_jaxs_default_device_is_the_one_in_use(monkeypatch):
    here = jax.devices()[0]
    monkeypatch.setattr(jax, "devices", lambda name=None: [here if name else Device])
    assert target().platform == "cuda"
    for chosen in (here, "cpu"):
        with jax.default_device(chosen):
            assert target() == CPU


def test_what_is_said_goes_before_and_ends_with_its_block():
    assert target() == CPU
    with compiling_for(H100) as outer:
        assert target() == outer == H100
        with compiling_for(TPU):
            assert target() == TPU
        assert target() == H100
        with pytest.raises(KeyError), compiling_for(TPU):
            raise KeyError
        assert target() == H100
    assert target() == CPU


@pytest.mark.parametrize(
    ("said", "chunk", "lockstep"),
    [(CPU, 512, (32, 16)), (H100, 4096, (16384, 32)), (TPU, 4096, (16384, 32))],
)
def test_the_choices_follow_it(said, chunk, lockstep):
    assert default_chunk_size(said) == chunk
    plan = default_plan(100, 64, 64, target=said)
    assert (plan.tiles_per_group, plan.splats_per_step) == lockstep
    with compiling_for(said):
        assert default_plan(100, 64, 64) == plan


def test_options_of_the_cpus_compiler_are_for_the_cpu(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert light_compilation(1) == {"xla_backend_optimization_level": 1}
    with compiling_for(H100):
        assert light_compilation(1) is None


def test_a_new_function_is_traced_anew_inside():
    def seen():
        return jax.jit(lambda x: x + (1.0 if target() == CPU else 2.0))(jnp.zeros(()))

    assert seen() == 1.0
    with compiling_for(TPU):
        assert seen() == 2.0


def questions(source: str) -> set[str]:
    """The questions about a platform that a file asks JAX itself."""
    asked = set()
    for node in ast.walk(ast.parse(source)):
        named = {getattr(node, "attr", None), getattr(node, "id", None)}
        if isinstance(node, ast.alias):
            named = set(node.name.split("."))
        asked |= named & {"default_backend", "platform_dependent", "jax_default_device"}
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            owners = {s.value for s in sides if getattr(s, "attr", "") == "platform"}
            asked |= {ast.unparse(owner) for owner in owners} - {"sys"}
    return asked


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (
            "x = 1 if jax.default_backend() == 'cpu' else 2",
            "default_backend",
        ),
        ("from jax import default_backend as where", "default_backend"),
        ("jax.lax.platform_dependent(cpu=f, default=g)", "platform_dependent"),
        ("if jax.devices()[0].platform == 'gpu':\n    pass", "jax.devices()[0]"),
    ],
)
def test_a_question_deep_inside_is_seen(source, asked):
    assert questions(source) == {asked}


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "backend"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_nobody_else_asks_jax_for_a_platform(path):
    asked = questions(path.read_text(encoding="utf-8"))
    assert asked <= {"target", "target()"}  # compared with a name
