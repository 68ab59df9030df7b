"""Programs for a GPU or a TPU without one: exported as StableHLO, and looked at.

Not a test; the tests of this folder share it. What it says is that every operation has
a lowering for the platform and that no custom call is left but those that are known to
exist there. Whether XLA's compiler for that platform takes it, whether it fits the
memory and what it computes needs the device.
"""

import re

import jax
import jax._src.cudnn.fused_attention_stablehlo as cudnn
import pytest

from sdsjax.backend import Target, compiling_for
from sdsjax.training.programs import first_state
from sdsjax.training.train_step import make_train_step

A100, H100, TPU = Target("cuda", (8, 0)), Target("cuda", (9, 0)), Target("tpu")
FUSED = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
# What a program may call besides StableHLO's own operations. Everything else (LAPACK's
# routines, a callback to Python) is on the host, or nobody has looked at it.
ALLOWED = {"cuda": {*FUSED, "Sharding"}, "tpu": {"Sharding"}}
# JAX asks the cuDNN that it finds for its version before it lowers to it, and there is
# none where no CUDA plugin is installed. 9.10.2 is what jax 0.10's plugin brings.
CUDNN_VERSION = 91002
# Operations that wait for the host.
OF_THE_HOST = ("infeed", "outfeed", "send", "recv")


class NotForTheTarget(AssertionError):
    """A program holds something that its target cannot run; the message names it."""


@pytest.fixture
def a_cudnn(monkeypatch):
    """Answers JAX's question for cuDNN's version; the choice of the kernel is ours."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: CUDNN_VERSION)


def custom_calls(text: str) -> set[str]:
    """The targets of the custom calls of a program."""
    calls = re.findall(r'custom_call\s*@(?:"([^"]+)"|([\w.$]+))', text)
    named = re.findall(r'call_target_name\s*=\s*"([^"]+)"', text)
    return {quoted or plain for quoted, plain in calls} | set(named)


def check_program(text: str, platform: str) -> None:
    """Raises NotForTheTarget for what a platform's program must not hold."""
    foreign = custom_calls(text) - ALLOWED[platform]
    foreign |= {name for name in OF_THE_HOST if f"stablehlo.{name}" in text}
    if foreign:
        raise NotForTheTarget(f"for {platform}: {', '.join(sorted(foreign))}")


def lowered(function, target: Target, *arguments) -> str:
    """The program of a jitted function for the target; to be traced inside
    `compiling_for(target)`. Arguments may be shapes. Raises NotForTheTarget."""
    unchecked = map(jax.export.DisabledSafetyCheck.custom_call, FUSED)
    export = jax.export.export(
        function, platforms=(target.platform,), disabled_checks=tuple(unchecked)
    )
    try:
        text = export(*arguments).mlir_module()
    except (NotImplementedError, ValueError) as error:
        # jax.export's own words for a missing rule and for an unknown custom call
        raise NotForTheTarget(f"for {target.platform}: {error}") from error
    check_program(text, target.platform)
    return text


def lowered_step(build, target: Target) -> str:
    """The training step of a run's last phase, for the target.

    build: () -> (config, components), called where the target's choices hold.
    """
    with compiling_for(target):
        config, components = build()
        start, arguments = first_state(components, config)
        state = jax.eval_shape(start, *arguments)
        step = make_train_step(
            components.source,
            components.representation,
            components.estimator,
            components.optimizer,
            components.sampler,
            components.phases[-1].cameras,
            total=config.steps,
            particles=config.particles,
            supervise=components.supervise,
        )
        return lowered(step, target, state, *arguments)
