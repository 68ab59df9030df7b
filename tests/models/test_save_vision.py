"""DPT and CLIP are loaded as they were saved, bit for bit in float16."""

import fixed_vision as vision
import fixed_weights as fixed
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.models.loading import companions, hub
from sdsjax.models.loading.save_vision import clip_json, dpt_json, save_companion
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer


def network(name):
    """(config, parameters that float16 holds exactly, tokenizer or None)."""
    component, given, words = companions.COMPANIONS[name], vision.CONFIGS[name], None
    if name == "clip_scorer":
        words = train_word_tokenizer(fixed.WORDS)
        ids = {"vocab_size": len(words[0]), "eos_token_id": len(words[0]) - 1}
        given = given | {"text_config": given["text_config"] | ids}
    config = component.read_config(given)
    shapes = flatten_dict(hub.shapes_of(component, config))
    params = {
        path: fixed.uniform("/".join(path), leaf.shape).astype(np.float16)
        for path, leaf in shapes.items()
    }
    return config, unflatten_dict(params), words


def test_a_hybrid_is_written_as_it_is_read():
    config = companions.COMPANIONS["depth"].read_config(vision.HYBRID)
    assert config.stem is not None
    assert companions.COMPANIONS["depth"].read_config(dpt_json(config)) == config


@pytest.mark.parametrize("name", companions.COMPANIONS)
def test_round_trip_is_bit_exact(tmp_path, name):
    config, params, words = network(name)
    folder = save_companion(tmp_path / name, name, config, params, words)
    loaded = companions.load_companion(folder, name)
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    if words:
        _, tokenizer = companions.load_clip_scorer(folder)
        assert tokenizer.end_id == config.end_id
        assert tokenizer.vocab_size == config.text.vocab_size


def test_the_oldest_end_token_is_written_as_it_is_read():
    given = vision.CLIP["text_config"] | {"eos_token_id": 2}
    config = companions.COMPANIONS["clip_scorer"].read_config(
        vision.CLIP | {"text_config": given}
    )
    assert config.end_id is None
    assert companions.COMPANIONS["clip_scorer"].read_config(clip_json(config)) == config


def test_what_does_not_fit_is_refused(tmp_path):
    config, params, _ = network("depth")
    with pytest.raises(ValueError, match="tokenizer belongs to clip_scorer"):
        save_companion(tmp_path, "clip_scorer", config, params)
    with pytest.raises(ValueError, match="tokenizer belongs to clip_scorer"):
        save_companion(tmp_path, "depth", config, params, ({}, []))
    bias = {"bias": params["head_4"]["bias"] * np.float16(np.inf)}
    infinite = params | {"head_4": params["head_4"] | bias}
    with pytest.raises(ValueError, match="head_4/bias is not finite"):
        save_companion(tmp_path, "depth", config, infinite)
    with pytest.raises(ValueError, match="has shape"):
        save_companion(tmp_path, "normals", config._replace(outputs=3), params)
    assert not list(tmp_path.iterdir())  # nothing half written
