"""Euler's method on a flow that is known; the shipped one's error: test_shipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.mmdit import Text
from sdsjax.toybox.scoring import flow

FOLDER = hub.BUILT_IN / "toybox-flow"


class Point:
    """The flow to one latent a caption: v = (z_s - m) / s, m the caption's number."""

    config = type("Config", (), {"sample_size": 4, "in_channels": 2})

    def apply(self, variables, z, time, told):
        return (z - told.pooled[:, :, None, None]) / (time / 1000.0)[
            :, None, None, None
        ]


class Plain:
    """A decoder that shows the first channel."""

    config = type("Config", (), {"from_latents": staticmethod(lambda z: z)})

    def apply(self, variables, z, method):
        return jnp.repeat(z[..., :1], 3, axis=-1)


class Numbers(flow.FlowNetworks):
    """Captions that are numbers; "" is 0."""

    def told(self, texts):
        numbers = np.float32([[float(text or 0)] for text in texts])
        return Text(numbers[..., None], numbers)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [3, 20])
def test_a_flow_to_a_point_ends_there(steps, shift):
    """Guided by 2 between 0 and m, the paths are straight and end at 2 m."""
    module = hub.Network(Point(), {}, Point.config)
    decoder = hub.Network(Plain(), {}, Plain.config)
    schedule = NoiseSchedule.flow_matching(shift=shift)
    networks = Numbers(module, decoder, None, schedule)
    asked = {"guidance_scale": 2.0, "steps": steps}
    drawn = flow.sample(networks, ["0.2", "-0.3"], jax.random.key(0), **asked)
    expected = np.array([0.4, -0.6])[:, None, None, None] * np.ones((2, 4, 4, 3))
    np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_the_shipped_folder_is_complete_and_small():
    names = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()}
    assert {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer/vocab.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    } <= names
    weights = sum(p.stat().st_size for p in FOLDER.rglob("*.safetensors"))
    assert weights <= 8_000_000
