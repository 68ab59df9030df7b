"""Small configs of DeepFloyd IF and T5, and inputs that are the same everywhere."""

import fixed_weights as fixed
import numpy as np

UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 6,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 12,
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 4,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "norm_num_groups": 4,
}
T5 = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "vocab_size": 200,
    "d_model": 12,
    "d_kv": 6,
    "d_ff": 19,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "use_cache": False,
}
IF_XL = {
    **UNET,
    "block_out_channels": [704, 1408, 2112, 2816],
    "layers_per_block": 3,
    "down_block_types": UNET["down_block_types"][:1] + UNET["down_block_types"][1:] * 3,
    "up_block_types": UNET["up_block_types"][:1] * 3 + UNET["up_block_types"][1:],
    "sample_size": 64,
    "cross_attention_dim": 2816,
    "encoder_hid_dim": 4096,
    "attention_head_dim": 64,
    "addition_embed_type_num_heads": 64,
    "norm_num_groups": 32,
}
T5_XXL = {
    **T5,
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
# what the published files say besides
PUBLISHED_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.17.0",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": False,
    "use_linear_projection": False,
}
PUBLISHED_T5 = {
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "num_decoder_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "torch_dtype": "float16",
    "transformers_version": "4.28.1",
}
WORDS = (
    "a an and ball blue cat cube it left on red right side the view photo of "
    "corgi 3 dslr, front back overhead house mug snow man made wood!"
)
# what is normalised before splitting; the published table is NFKC's, 240 kB
RULES = {"\ufb01": "fi", "\u00a0": " ", "\t": " ", "\n": " ", "e\u0301": "\u00e9"}
PROMPTS = [
    "",
    " ",
    "a photo of a corgi",
    "  A red  cube,\tright side view\n",
    "snowman made of wood!!! 33",
    "unknown \u2603\u2603 \u732b and caf\u00e9 cafe\u0301 \ufb01ne",
    "a\u00a0\u00a0ball",
    "a blue cat on the red house " * 3,
]


def tensor(key, shape):
    """The fixed weight of a torch key; one embedding, whichever name it has."""
    if key in ("shared.weight", "encoder.embed_tokens.weight"):
        return fixed.uniform("shared.weight", shape)
    if key.endswith("positional_embedding"):
        return fixed.uniform(key, shape)
    return fixed.tensor(key, shape)


def inputs():
    """Both sides even: IF's UNet halves and doubles exactly."""
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5])
    return {
        "z": fixed.uniform("if z", (2, 6, 8, 3)) * 1.7,
        "t": np.array([3, 741]),
        "text": fixed.uniform("if text", (2, 9, 12)) * 1.7,
        "ids": np.array([[5, 199, 17, 40, 8, 3, 77, 120, 1], [9, 2, 150, 1, *[0] * 5]]),
        "mask": mask,
    }
