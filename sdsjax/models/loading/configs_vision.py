"""The config.json of DPT and CLIP, as the NamedTuples that the networks take.

As in config.py every key is read, checked or listed as without influence; anything else
is refused. These files come from transformers, which writes the settings of text
generation and of its own bookkeeping into every config: `BOOKKEEPING` lists them.
"""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading.configs import ConfigReader, clip_text_config
from sdsjax.models.text_encoders.clip import ACTIVATIONS
from sdsjax.models.vision.bit import BitConfig, bottleneck
from sdsjax.models.vision.clip_scorer import CLIPConfig, CLIPVisionConfig
from sdsjax.models.vision.dpt import STAGES, DPTConfig

BOOKKEEPING = {
    *("add_cross_attention", "architectures", "attn_implementation", "bad_words_ids"),
    *("begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward"),
    *("cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty"),
    *("do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size"),
    *("eos_token_id", "exponential_decay_length_penalty", "finetuning_task"),
    *("forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_factor"),
    *("initializer_range", "is_decoder", "is_encoder_decoder", "label2id"),
    *("length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
    *("num_beam_groups", "num_beams", "num_return_sequences", "output_attentions"),
    *("output_hidden_states", "output_scores", "pad_token_id", "prefix"),
    *("problem_type", "pruned_heads", "remove_invalid_values", "repetition_penalty"),
    *("return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens"),
    *("task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder"),
    *("tie_word_embeddings", "tokenizer_class", "top_k", "top_p", "torch_dtype"),
    *("torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache"),
}
DROPOUT = {"attention_dropout", "attention_probs_dropout_prob", "dropout"}
DROPOUT |= {"hidden_dropout_prob"}

DPT_FIXED = {
    "model_type": ("dpt",),
    "add_projection": (False,),
    "backbone": (None,),
    "backbone_kwargs": (None,),
    "head_in_index": (-1,),
    "readout_type": ("project",),
    "use_batch_norm_in_fusion_residual": (False,),
    "use_bias_in_fusion_residual": (None, True),
    "use_pretrained_backbone": (None, False),
    "use_timm_backbone": (None, False),
}
# a hybrid's stem, whose blocks and padding are TensorFlow's and whose three stages cut
# a picture into sixteenths
STEM_FIXED = {
    "model_type": ("bit",),
    "embedding_dynamic_padding": (True,),
    "global_padding": ("SAME", "same"),
    "hidden_act": ("relu",),
    "layer_type": ("bottleneck",),
    "num_channels": (3,),
    "output_stride": (32,),
    "width_factor": (1,),
}
STEM_INERT = BOOKKEEPING | {"drop_path_rate", "out_indices", "stage_names"}
STEM_STAGES = ["stage1", "stage2", "stage3"]
# the segmentation's own settings, the pooler that is not there, the size of the stem's
# last map (as the weights have it); and expand_channels, which the first published
# files have and no code reads
DPT_INERT = BOOKKEEPING | DROPOUT | {
    *("auxiliary_loss_weight", "backbone_featmap_shape", "expand_channels"),
    *("pooler_act", "pooler_output_size", "semantic_classifier_dropout"),
    *("semantic_loss_ignore_index", "use_auxiliary_head"),
}  # fmt: skip

CLIP_FIXED = {"model_type": ("clip",)}
CLIP_INERT = BOOKKEEPING | {"logit_scale_init_value", "text_config", "vision_config"}
CLIP_INERT |= {"text_config_dict", "vision_config_dict"}
VISION_FIXED = {"model_type": ("clip_vision_model",)}
# the towers' own projection_dim is not what CLIPModel projects to
VISION_INERT = BOOKKEEPING | DROPOUT | {"projection_dim"}


def dpt_config(
    config: Mapping[str, Any], where="config.json", *, outputs: int = 1
) -> DPTConfig:
    """Reads a DPT's config.json; raises LoaderError for what `DPT` does not implement.

    outputs: 1 for a network of disparity, 3 for one of normals; no file says which.
    """
    r = ConfigReader(config, where, DPT_FIXED, DPT_INERT)
    necks = r.positive_ints("neck_hidden_sizes", (96, 192, 384, 768))
    taps = r.value("backbone_out_indices", (2, 5, 8, 11))
    factors = r.value("reassemble_factors", (4, 2, 1, 0.5))
    out = DPTConfig(
        hidden=r.positive_int("hidden_size", 768),
        mlp=r.positive_int("intermediate_size", 3072),
        layers=r.positive_int("num_hidden_layers", 12),
        heads=r.positive_int("num_attention_heads", 12),
        image_size=r.positive_int("image_size", 384),
        patch=r.positive_int("patch_size", 16),
        in_channels=r.positive_int("num_channels", 3),
        activation=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        epsilon=r.positive_float("layer_norm_eps", 1e-12),
        qkv_bias=r.boolean("qkv_bias", True),
        taps=tuple(taps) if isinstance(taps, list | tuple) else (),
        factors=tuple(factors) if isinstance(factors, list | tuple) else (),
        necks=necks,
        fusion=r.positive_int("fusion_hidden_size", 256),
        outputs=outputs,
    )
    out = out._replace(stem=_stem_config(r, out, where))
    known = all(type(i) is int and 0 <= i < out.layers for i in out.taps)
    if not known or sorted(set(out.taps)) != list(out.taps) or not out.taps:
        r.refuse("backbone_out_indices", taps, f"rising, each below {out.layers}")
    steps = [f for f in out.factors if f in (1, 2, 4, 8, 0.5, 0.25)]
    if steps != list(out.factors) or len(steps) != len(out.taps):
        r.refuse("reassemble_factors", factors, "one of 8 ... 0.25 for each tap")
    if len(necks) != len(out.taps):
        r.refuse("neck_hidden_sizes", list(necks), f"{len(out.taps)}, one a tap")
    r.check_divides("num_attention_heads", (out.heads,), (out.hidden,))
    if out.image_size % out.patch:
        r.refuse("patch_size", out.patch, f"a divisor of {out.image_size} pixels")
    r.finish()
    return out


def _stem_config(r: ConfigReader, dpt: DPTConfig, where: str) -> BitConfig | None:
    """The convolutional stem of a hybrid, None for others."""
    ignored = r.value("neck_ignore_stages", [0, 1])
    found = r.value("backbone_config", None)
    if not r.boolean("is_hybrid", False):
        if found is not None:
            r.refuse("backbone_config", found, "None without is_hybrid")
        return None
    if list(ignored) != list(range(STAGES)):
        r.refuse("neck_ignore_stages", ignored, list(range(STAGES)))
    if not isinstance(found, Mapping):
        r.refuse("backbone_config", found, "an object: a BiT's settings")
    s = ConfigReader(found, f"{where}: backbone_config", STEM_FIXED, STEM_INERT)
    for key in ("embedding_dynamic_padding", "global_padding", "layer_type"):
        if key not in found:  # its default is what is not implemented
            s.refuse(key, None, repr(STEM_FIXED[key][0]))
    depths = s.positive_ints("depths", (3, 4, 6, 3))
    widths = s.positive_ints("hidden_sizes", (256, 512, 1024, 2048))
    stem = BitConfig(
        embedding=s.positive_int("embedding_size", 64),
        # files name four widths beside three depths; the fourth has no stage
        widths=widths[: len(depths)],
        depths=depths,
        groups=s.positive_int("num_groups", 32),
    )
    if len(depths) != len(STEM_STAGES) or len(stem.widths) != len(depths):
        s.refuse("depths", list(depths), "three, and as many hidden_sizes")
    stages = s.value("out_features", STEM_STAGES)
    if list(stages) != STEM_STAGES:
        s.refuse("out_features", stages, STEM_STAGES)
    inner = tuple(bottleneck(width) for width in stem.widths)
    normed = (stem.embedding, *stem.widths, *inner)
    s.check_divides("num_groups", (stem.groups,) * len(normed), normed)
    s.finish()
    if stem.stride != dpt.patch:
        r.refuse("patch_size", dpt.patch, f"{stem.stride}, as the stem's stages divide")
    if len(dpt.taps) <= STAGES:
        r.refuse("backbone_out_indices", list(dpt.taps), f"more than {STAGES}")
    if dpt.necks[:STAGES] != stem.widths[:STAGES]:
        wanted = f"first the stem's {list(stem.widths[:STAGES])}"
        r.refuse("neck_hidden_sizes", list(dpt.necks), wanted)
    return stem


def clip_config(config: Mapping[str, Any], where="config.json") -> CLIPConfig:
    """Raises LoaderError for any value that `CLIP` does not implement."""
    r = ConfigReader(config, where, CLIP_FIXED, CLIP_INERT)
    projection = r.positive_int("projection_dim", 512)
    r.finish()
    towers = {}
    for name in ("text_config", "vision_config"):
        tower, older = config.get(name) or {}, config.get(f"{name}_dict") or {}
        if not isinstance(tower, Mapping) or not isinstance(older, Mapping):
            r.refuse(name, tower, "an object")
        for key, value in older.items():
            if tower and tower.get(key, value) != value:
                r.refuse(f"{name}_dict.{key}", value, f"{tower[key]!r}, as in {name}")
        towers[name] = {**older, **tower}
    end = towers["text_config"].get("eos_token_id", 49407)
    if type(end) is not int:
        r.refuse("text_config.eos_token_id", end, "an integer")
    inert = BOOKKEEPING | DROPOUT
    text = {k: v for k, v in towers["text_config"].items() if k not in inert}
    return CLIPConfig(
        text=clip_text_config(text, f"{where}: text_config"),
        vision=_clip_vision(towers["vision_config"], f"{where}: vision_config"),
        projection=projection,
        # transformers reads the end token 2 of old files as "the largest id"
        end_id=None if end == 2 else end,
    )


def _clip_vision(config: Mapping[str, Any], where: str) -> CLIPVisionConfig:
    r = ConfigReader(config, where, VISION_FIXED, VISION_INERT)
    out = CLIPVisionConfig(
        hidden=r.positive_int("hidden_size", 768),
        mlp=r.positive_int("intermediate_size", 3072),
        layers=r.positive_int("num_hidden_layers", 12),
        heads=r.positive_int("num_attention_heads", 12),
        image_size=r.positive_int("image_size", 224),
        patch=r.positive_int("patch_size", 32),
        in_channels=r.positive_int("num_channels", 3),
        activation=r.choice("hidden_act", ACTIVATIONS, "quick_gelu"),
        epsilon=r.positive_float("layer_norm_eps", 1e-5),
    )
    r.check_divides("num_attention_heads", (out.heads,), (out.hidden,))
    r.finish()
    return out
