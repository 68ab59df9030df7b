"""The training step of every variant lowers for a GPU, of every config for a TPU too:
whole, or in its parts where other variants have the same ones (tiny_variants.IN_PARTS).

No device is needed and none is used: see lowering.py for what this can say.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import (
    ALLOWED,
    FUSED,
    H100,
    TPU,
    NotForTheTarget,
    a_cudnn,  # noqa: F401 (a fixture)
    check_program,
    custom_calls,
    lowered,
    lowered_step,
)
from tiny_variants import IN_PARTS, tiny, write_random_folder

from sdsjax.backend import compiling_for
from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import config_folder, config_names, load, read_module
from sdsjax.training.build import build

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from if_folders import write_if_folder
from sd3_folders import write_sd3_folder
from sdxl_folders import write_sdxl_folder

# whose programs are those of sd21 with another network: of them a method that only
# reads it is lowered whole, and one that trains beside it in its parts
NETWORKS, SHOWN = ("sdxl", "sd3"), ("sds", "vsd")
ALL = [
    name
    for stem in config_names()
    for variant in read_module(config_folder() / f"{stem}.py").VARIANTS
    if variant not in NETWORKS or stem in SHOWN
    if (name := f"{stem}:{variant}") not in IN_PARTS
]
LATENT = (
    "stable_diffusion",
    "stable_diffusion3",
    "multiview",
)  # their attention may be fused
FIRST = {
    name.split(":")[0]: name for name in reversed(ALL) if not name.endswith(":sd21")
}
TABLE = [
    pytest.param(name, target, id=f"{name}-{target.platform}")
    for name in ALL
    for target in (H100, TPU)
    # a method's variants differ in sizes: the TPU is shown one of each, and a field
    if target is H100 or name in (FIRST[name.split(":")[0]], "ssd:nerf")
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random weights in Stable Diffusion's layout, and in DeepFloyd IF's."""
    plain = write_random_folder(tmp_path_factory.mktemp("random-sd"))
    pixels = write_if_folder(tmp_path_factory.mktemp("if"))
    views = write_random_folder(tmp_path_factory.mktemp("random-mv"), multiview=True)
    return {
        "stable_diffusion": plain,
        "empirical": plain,
        "deepfloyd": pixels,
        "multiview": views,
        "stable_diffusion3": write_sd3_folder(tmp_path_factory.mktemp("sd3")),
        "sdxl": write_sdxl_folder(tmp_path_factory.mktemp("sdxl")),
    }


def tiny_config(name, folders):
    """A variant's config at sizes of seconds; companions are the embedded ones."""
    plain = load(name)
    kind = "sdxl" if name.endswith(":sdxl") else plain.prior.name
    overrides = tiny(name, folders[kind])
    if plain.prior.depth_folder:
        overrides["prior.depth_folder"] = "toybox-dpt"
    if plain.reference.path:
        overrides["reference.path"] = "toybox"
    return resolve(name, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), TABLE)
@pytest.mark.usefixtures("a_cudnn")
def test_a_training_step_lowers(name, target, folders):
    config = tiny_config(name, folders)
    text = lowered_step(lambda: (config, build(config)), target)
    half = config.prior.dtype == "bfloat16"
    fused = half and config.prior.name in LATENT and target is H100
    assert (custom_calls(text) >= {FUSED[0]}) == fused


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_PARTS)
def test_what_is_lowered_in_parts_is_built_whole(name, folders):
    config = tiny_config(name, folders)
    found = build(config)
    assert len(found.phases) == 1 + config.camera.first_steps


def test_the_table_has_every_variant_and_every_method():
    shown = {param.values for param in TABLE}
    assert {name for name, target in shown if target is H100} == set(ALL)
    methods = {name.split(":")[0] for name, target in shown if target is TPU}
    assert methods == set(config_names())


def only_on_a_cpu(x):
    return jax.scipy.linalg.schur(x)[0]


def asks_python(x):
    return jax.pure_callback(lambda x: np.asarray(x), x, x)


def prints(x):
    jax.debug.print("{}", x)
    return x


def solves(x):
    return jnp.linalg.solve(x, x)


X = jax.ShapeDtypeStruct((4, 4), jnp.float32)


# JAX's own words where it notices that the callback would be this process's
ELSEWHERE = "different from the lowering platform"


@pytest.mark.parametrize("target", [H100, TPU])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (only_on_a_cpu, "schur"),
        (asks_python, f"callback|{ELSEWHERE}"),
        (prints, f"callback|{ELSEWHERE}"),
        (solves, "getrf|LuDecomposition"),
    ],
)
def test_what_is_not_for_the_target_is_named(function, message, target):
    with compiling_for(target), pytest.raises(NotForTheTarget, match=message):
        lowered(jax.jit(function), target, X)


@pytest.mark.parametrize("platform", sorted(ALLOWED))
@pytest.mark.parametrize(
    ("function", "message"), [(solves, "lapack"), (asks_python, "callback")]
)
def test_a_program_of_the_cpus_is_seen_in_its_text(function, message, platform):
    text = jax.jit(function).lower(X).as_text()
    with pytest.raises(NotForTheTarget, match=message):
        check_program(text, platform)


@pytest.mark.parametrize("platform", sorted(ALLOWED))
def test_a_plain_program_passes_and_a_send_does_not(platform):
    plain = jax.jit(lambda x: x @ x + jax.random.normal(jax.random.key(0), x.shape))
    text = plain.lower(X).as_text()
    check_program(text, platform)
    with pytest.raises(NotForTheTarget, match="send"):
        check_program(text + '"stablehlo.send"(%0, %1)', platform)
