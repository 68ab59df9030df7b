"""config.json: read, checked, or refused; never ignored."""

import fixed_weights as fixed
import pytest
from folders import CONFIGS

from sdsjax.models.loading import configs
from sdsjax.models.loading.errors import LoaderError

READERS = {
    "unet": (configs.unet_config, configs.unet_json),
    "vae": (configs.vae_config, configs.vae_json),
    "text_encoder": (configs.clip_text_config, configs.clip_text_json),
}

# the published files of Stable Diffusion 1.5 and 2.1-base, shortened to what matters
SD15 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD21 = {
    **SD15,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": True,
    "use_linear_projection": True,
}


def test_published_configs():
    sd15, sd21 = configs.unet_config(SD15), configs.unet_config(SD21)
    assert sd15.heads == (8, 8, 8, 8)
    assert sd21.heads == (5, 10, 20, 20)
    assert not sd15.linear_projection
    assert sd21.linear_projection
    assert sd15.down_attention == (True, True, True, False)
    assert sd15.up_attention == (False, True, True, True)
    vae = configs.vae_config(
        {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
        }
    )
    assert vae.factor == 8
    assert vae.scaling_factor == 0.18215


@pytest.mark.parametrize("name", list(READERS))
def test_written_configs_read_back(name):
    read, write = READERS[name]
    config = read(CONFIGS[name])
    assert read(write(config)) == config
    assert hash(config) == hash(read(write(config)))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("unet", "_class_name", "UNet3DConditionModel"),
        ("unet", "act_fn", "gelu"),
        ("unet", "addition_embed_type", "text_time"),
        ("unet", "class_embed_type", "projection"),
        ("unet", "num_class_embeds", 1000),
        ("unet", "mid_block_type", None),
        ("unet", "only_cross_attention", [True, False]),
        ("unet", "freq_shift", 1),
        ("unet", "flip_sin_to_cos", False),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "transformer_layers_per_block", [1, 2]),
        ("unet", "num_attention_heads", 8),
        ("unet", "down_block_types", ["ResnetDownsampleBlock2D", "DownBlock2D"]),
        ("unet", "down_block_types", ["DownBlock2D"]),
        ("unet", "block_out_channels", "8, 16"),
        ("unet", "block_out_channels", []),
        ("unet", "attention_head_dim", [2, 4, 8]),
        ("unet", "attention_head_dim", [3, 4]),
        ("unet", "down_block_types", [["DownBlock2D"], "DownBlock2D"]),
        ("unet", "layers_per_block", True),
        ("unet", "layers_per_block", [1, 2]),
        ("unet", "norm_num_groups", 3),
        ("unet", "norm_eps", 0.0),
        ("unet", "use_linear_projection", 1),
        ("unet", "cross_attention_dim", [6, 6]),
        ("unet", "made_up", None),
        ("vae", "act_fn", "mish"),
        ("vae", "use_post_quant_conv", False),
        ("vae", "mid_block_add_attention", False),
        ("vae", "shift_factor", "0.1"),
        ("vae", "latents_mean", [0.0]),
        ("vae", "scaling_factor", -1),
        ("vae", "up_block_types", ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]),
        ("vae", "made_up", 1),
        ("text_encoder", "hidden_act", "gelu_new"),
        ("text_encoder", "hidden_act", ["gelu"]),
        ("text_encoder", "model_type", "t5"),
        ("text_encoder", "num_attention_heads", 3),
        ("text_encoder", "hidden_size", 0),
        ("text_encoder", "made_up", 1),
    ],
)
def test_values_that_are_not_implemented(name, key, value):
    with pytest.raises(LoaderError) as caught:
        READERS[name][0]({**CONFIGS[name], key: value}, "a/config.json")
    message = str(caught.value)
    assert message.startswith(f"a/config.json: {key} = ")
    assert "expected" in message
    assert "\n" not in message


def test_fixed_configs_differ():
    assert configs.unet_config(fixed.UNETS["unet_sd1"]).heads == (2, 2)
