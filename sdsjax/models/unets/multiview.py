"""MultiViewUNet: Stable Diffusion's UNet for several views at once, told the cameras.

Notation: b samples, g views a sample (a group), h w rows and columns of a latent, n
tokens, d their width. z_t `[b g h w c]`, one t a group `[b]`, text `[b n d]` one prompt
a group, camera `[b g 16]` (`cameras.camera_numbers`), rays `[b g h w 6]`
(`cameras.plucker_rays` at the latent's size). The output has z_t's shape.

MVDream (arXiv 2308.16512): the camera's numbers pass through Linear, SiLU, Linear and
are added to the embedding of t; self-attention runs over the tokens of all views of a
group; text attention and convolutions stay per view. Three options are not MVDream's:

    rays        Pluecker coordinates of each latent's ray beside z_t's channels
                (as LFN, arXiv 2106.02634, and many multi-view networks since);
    joint code  an MLP of view direction and pooled text together: added to the
                embedding of t as SDXL's pooled text is (arXiv 2307.01952), and given
                as further text tokens as IP-Adapter's are (arXiv 2308.06721);
    code map    the same code, decoded to a picture: what is expected to be seen, as
                channels beside z_t's. A loss of its own teaches it (regression), so
                that the UNet's gradient stops there.

Sixteen zeros are the null camera: its rays are zeros too. With one view a group, and
with last layers at zero as they begin, the network is the UNet beneath.
"""

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.models.layers import GroupNorm, conv, upsample_nearest
from sdsjax.models.parameters import Dense, Module
from sdsjax.models.unets.stable_diffusion import (
    TimeEmbedding,
    UNet2DCondition,
    UNetConfig,
)

CAMERA_NUMBERS = 16
RAY_CHANNELS = 6
MAP_GROUPS = 8


class MultiViewConfig(NamedTuple):
    """What of a multi-view UNet's config.json decides its arithmetic.

    unet: the network beneath, `in_channels` those of z_t alone; rays: whether Pluecker
    rays are seen; code_tokens: further text tokens made by the joint code, 0: no joint
    code; code_width: its hidden layer; harmonics: octaves of the view direction that it
    is told; code_map: widths of its decoder, from the coarsest level to that of z_t,
    (): no code map. Nothing beside `unet`: MVDream's network.
    """

    unet: UNetConfig
    rays: bool = False
    code_tokens: int = 0
    code_width: int = 512
    harmonics: int = 3
    code_map: tuple[int, ...] = ()

    @property
    def map_channels(self) -> int:
        """Channels of the code map: latents on white, and how much is covered."""
        return self.unet.in_channels + 1 if self.code_map else 0

    @property
    def input_channels(self) -> int:
        """What the UNet beneath takes in: z_t, rays, code map."""
        rays = RAY_CHANNELS if self.rays else 0
        return self.unet.in_channels + rays + self.map_channels


def direction_harmonics(direction, octaves: int):
    """Encodes directions `[... 3]` as `[... 3 (1 + 2 octaves)]`.

    x, sin and cos of 2^i pi x / 2, i from 0.

    The lowest octave tells -1 from 1; positional encoding as in arXiv 2003.08934.
    """
    phase = direction[..., None] * (0.5 * math.pi * 2.0 ** jnp.arange(octaves))
    phase = phase.reshape(*direction.shape[:-1], 3 * octaves)
    return jnp.concatenate([direction, jnp.sin(phase), jnp.cos(phase)], axis=-1)


class JointCode(Module):
    """A code of camera `[m 16]`, text `[m n d]` and rays `[m h w 6]` together.

    It gives (embedding `[m width]`, tokens `[m k d]`, code `[m code_width]`).

    A two-layer MLP of the view direction's harmonics, the mean and the last text state
    and, where there are rays, the size at which the object appears: what is seen from
    there is a function of them together that none tells alone. The embedding is zero
    at first; the tokens are not, since attention would otherwise starve them.
    """

    config: MultiViewConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, camera, text, rays=None):
        cfg, context = self.config, self.config.unet.context
        # the translation of a unit-length camera-to-world is its direction
        direction = camera.reshape(-1, 4, 4)[:, :3, 3]
        seen = direction_harmonics(direction, cfg.harmonics).astype(self.dtype)
        told = [seen, text.mean(axis=1), text[:, -1]]
        if rays is not None:
            # a ray's moment is its distance from the origin: their spread grows with
            # the camera's distance, and no picture of the world leaves .6 to 1.2
            moments = jnp.mean(jnp.sum(rays[..., 3:] ** 2, -1), (1, 2))
            told.append(5.0 * (jnp.sqrt(moments) - 0.9)[:, None].astype(self.dtype))
        x = jnp.concatenate(told, axis=-1)
        x = nn.silu(Dense(cfg.code_width, dtype=self.dtype, name="linear_1")(x))
        x = nn.silu(Dense(cfg.code_width, dtype=self.dtype, name="linear_2")(x))
        embedding = Dense(
            cfg.unet.time_width,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="to_time",
        )(x)
        tokens = Dense(cfg.code_tokens * context, dtype=self.dtype, name="to_tokens")(x)
        return embedding, tokens.reshape(-1, cfg.code_tokens, context), x


class CodeMap(Module):
    """A decoder of the joint code to a map beside z_t.

    code `[m code_width]` -> `[m h w map_channels]`, h = w = the sample size: residual
    convolutions at every level of `config.code_map`, doubled in between, each normed
    and modulated by the code.
    """

    config: MultiViewConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, code):
        widths = self.config.code_map
        coarse = self.config.unet.sample_size >> (len(widths) - 1)
        dense = partial(Dense, dtype=self.dtype)

        def modulated(x, name):
            gain = dense(2 * x.shape[-1], name=f"{name}_code")(code)[:, None, None]
            scale, shift = jnp.split(gain, 2, axis=-1)
            normed = GroupNorm(MAP_GROUPS, 1e-5, self.dtype, name=f"{name}_norm")(x)
            return nn.silu(normed * (1 + scale) + shift)

        x = dense(coarse**2 * widths[0], name="to_map")(code)
        x = x.reshape(-1, coarse, coarse, widths[0])
        for i, width in enumerate(widths):
            if i:
                x = upsample_nearest(modulated(x, f"up_{i}"))
                x = conv(width, 3, self.dtype, f"up_{i}_conv")(x)
            y = modulated(x, f"level_{i}")
            x = x + conv(width, 3, self.dtype, f"level_{i}_conv")(y)
        channels = self.config.map_channels
        return conv(channels, 3, self.dtype, "out_conv")(modulated(x, "out"))


class MultiViewUNet(Module):
    """A multi-view UNet: (z_t, t, text, camera, rays) to eps_hat.

    z_t `[b g h w c]`, t `[b]`, text `[b n d]`, camera `[b g 16]`. rays `[b g h w 6]`:
    only where the config asks for them. class_embedding `[b g time_width]`: added to
    the camera's (VSD's own camera). g may be any number, 1 too, with the same
    parameters. ValueError for arrays that do not fit each other. The code map, where
    there is one, is sown as "expected" `[b g h w map_channels]` among the
    "intermediates". remat: what the gradient keeps of the UNet's blocks (layers.REMAT).
    """

    config: MultiViewConfig
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        sample,
        timesteps,
        encoder_hidden_states,
        camera,
        rays=None,
        class_embedding=None,
    ):
        cfg, (b, g) = self.config, sample.shape[:2]
        if camera.shape != (b, g, CAMERA_NUMBERS):
            raise ValueError(
                f"camera {camera.shape}; expected {(b, g, CAMERA_NUMBERS)}, 16 numbers "
                "a view"
            )
        if (rays is not None) != cfg.rays:
            asked = "asks for" if cfg.rays else "takes no"
            raise ValueError(f"this network {asked} rays [b g h w {RAY_CHANNELS}]")

        def per_view(x):  # [b ...] -> [b g ...], a copy for each view
            return jnp.repeat(x, g, axis=0)

        z = sample.reshape(b * g, *sample.shape[2:])
        beside = []
        if rays is not None:
            rays = rays.reshape(*z.shape[:-1], RAY_CHANNELS)
            beside.append(rays)
        camera = camera.reshape(b * g, CAMERA_NUMBERS)
        text = per_view(encoder_hidden_states.astype(self.dtype))
        width = cfg.unet.time_width
        embed = TimeEmbedding(width, self.dtype, zero=True, name="camera_embed")
        embedding = embed(camera)
        if class_embedding is not None:
            embedding = embedding + class_embedding.reshape(b * g, width)
        if cfg.code_tokens:
            code = JointCode(cfg, self.dtype, name="joint_code")
            added, tokens, hidden = code(camera, text, rays)
            embedding = embedding + added
            text = jnp.concatenate([text, tokens], axis=1)
            if cfg.code_map:
                expected = CodeMap(cfg, self.dtype, name="code_map")(hidden)
                if expected.shape[:3] != z.shape[:3]:
                    raise ValueError(
                        f"latents of {z.shape[1:3]}: the code map of this network is "
                        f"of {expected.shape[1:3]}, no other size"
                    )
                shown = expected.reshape(b, g, *expected.shape[1:])
                self.sow("intermediates", "expected", shown)
                beside.append(jax.lax.stop_gradient(expected))
        z = jnp.concatenate([z, *beside], axis=-1)
        within = cfg.unet._replace(in_channels=cfg.input_channels)
        unet = UNet2DCondition(within, self.dtype, g, self.remat, name="unet")
        out = unet(z, per_view(timesteps), text, class_embedding=embedding)
        return out.reshape(*sample.shape[:-1], -1).astype(sample.dtype)
