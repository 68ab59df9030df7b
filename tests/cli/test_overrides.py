"""Overrides: parsed by the key's type, refused otherwise; sections follow the names."""

import pytest

from sdsjax.cli.config_files import base_config, load
from sdsjax.cli.overrides import apply, coerce, hyperparameters
from sdsjax.training.build import FACTORIES, LOSSES
from sdsjax.training.config import ConfigError, flatten


def applied(config, overrides):
    base = base_config()
    return apply(config, overrides, base=base, factories=FACTORIES, losses=LOSSES)


def overridden(overrides, name="ssd"):
    return flatten(applied(load(name), overrides))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "12", 12),
        ("prompt", "12", "12"),
        ("optimizer.lr.sh", "1", 1.0),
        ("optimizer.lr.sh", "1e-3", 1e-3),
        ("prior.view_prompts", "false", False),
        ("prior.view_prompts", "1", True),
        ("camera.fov", "30,50", (30.0, 50.0)),
        ("camera.fov", "(30, 50.5)", (30.0, 50.5)),
        ("prior.captions", "('a red cube',)", ("a red cube",)),
        ("prior.means", "((0,0,1),(1,1,1))", ((0.0, 0.0, 1.0), (1.0, 1.0, 1.0))),
        ("prior.revision", "main", "main"),
        ("prior.revision", "None", None),
        ("optimizer.clip_norm", "1", 1.0),
        ("optimizer.clip_norm", "none", None),
        ("representation.init_scale", "0.1", 0.1),
        ("representation.init_scale", "None", None),
        ("representation.capacity", "128", 128),
        ("negative_prompt", "", ""),
    ],
)
def test_text_becomes_the_type_of_the_key(key, text, value):
    got = overridden({key: text})[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "1.5"),
        ("steps", "many"),
        ("steps", ""),
        ("steps", 1.5),
        ("steps", True),
        ("steps", None),
        ("steps", "None"),
        ("seed", [1]),
        ("optimizer.eps", "small"),
        ("optimizer.eps", "nan"),
        ("optimizer.eps", "inf"),
        ("prior.view_prompts", "maybe"),
        ("prior.view_prompts", 1),
        ("prompt", 7),
        ("camera.fov", "wide"),
        ("camera.fov", "__import__('os')"),
        ("camera.fov", "('a', 'b')"),
        ("prior.means", "((0,0,1),2)"),
        ("representation.capacity", "1.5"),
        ("optimizer.clip_norm", "x"),
    ],
)
def test_a_wrong_type_names_key_and_value(key, value):
    with pytest.raises(ConfigError, match=key) as caught:
        overridden({key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lrr", "optimizer.lr.means"),
        ("batchsize", "batch_size"),
        ("estimator.treshold", "estimator.threshold"),
        ("treshold", "estimator.threshold"),
        ("optimizer.lr.mean", "optimizer.lr.means"),
        ("optimzer.b1", "optimizer.b1"),
        ("losses.opacty", "losses.opacity"),
        ("qqq", "at the top there are"),
        ("", "at the top there are"),
        ("optimizer.lr", "is a section"),
        ("steps.x", "steps"),
    ],
)
def test_an_unknown_key_suggests(key, nearest):
    with pytest.raises(ConfigError, match=nearest):
        overridden({key: "1"})


def test_every_hyperparameter_is_a_key():
    flat = overridden({})
    for name in hyperparameters(FACTORIES["estimator"]["ssd"]):
        assert f"estimator.{name}" in flat
    assert {f"losses.{name}" for name in LOSSES["gaussians"]} <= set(flat)


def test_another_estimator_brings_its_own_keys_whatever_the_order():
    override = {"estimator.guidance_scale": "7.5", "estimator.name": "sds"}
    flat = overridden(override)
    assert flat["estimator.guidance_scale"] == 7.5
    assert flat["estimator.weighting"] == "sigma2"
    assert "estimator.threshold" not in flat
    flat = overridden({"timesteps.name": "uniform"})
    assert "timesteps.t_end" not in flat


def test_a_required_hyperparameter_waits_for_its_value():
    assert overridden({"estimator.name": "ssd"}, "sds")["estimator.threshold"] is None
    override = {"estimator.name": "ssd", "estimator.threshold": "300"}
    threshold = overridden(override, "sds")["estimator.threshold"]
    assert threshold == 300.0
    assert type(threshold) is float


def test_values_and_nested_mappings_as_from_python():
    flat = overridden({"steps": 5, "optimizer": {"lr": {"sh": 1}}, "prompt": "a mug"})
    assert (flat["steps"], flat["optimizer.lr.sh"], flat["prompt"]) == (5, 1.0, "a mug")


def test_the_original_is_left_alone():
    config = load("ssd")
    before = config.to_dict()
    applied(config, {"steps": 5, "optimizer.lr.sh": 1.0})
    assert config.to_dict() == before


def test_an_int_passes_for_a_float_and_nothing_else_does():
    assert coerce("x", 3, float) == 3.0
    with pytest.raises(ConfigError):
        coerce("x", True, float)
    with pytest.raises(ConfigError):
        coerce("x", 3.0, int)


def without(section, key):
    def edit(config):
        with config.unlocked():
            del config[section][key]

    return edit


def setting(key, value):
    def edit(config):
        *parents, last = key.split(".")
        target = config
        for part in parents:
            target = target[part]
        with target.ignore_type():
            target[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("camera", "fov"), "lacks the key 'camera.fov'"),
        (setting("lrr", 1), "unknown config key 'lrr'"),
        (setting("steps", "5"), "'steps' takes a whole number"),
        (setting("estimator.threshold", "5"), "'estimator.threshold' takes a number"),
        (setting("estimator", "ssd"), "no section 'estimator'"),
        (setting("losses.opaque", 1.0), "opacity"),
        (setting("optimizer.lr.means", None), "lr.means"),
        (setting("optimizer.lr.means", "fast"), "'optimizer.lr.means' takes a number"),
        (setting("camera.fov", (40.0, "wide")), "camera.fov"),
        (setting("estimator.shares", 1.0), "takes no key 'shares'"),
    ],
)
def test_a_file_is_held_to_the_same_keys_and_types(edit, message):
    config = load("ssd")
    edit(config)
    with pytest.raises(ConfigError, match=message):
        applied(config, {})


def test_an_int_in_a_file_becomes_the_float_it_stands_for():
    config = load("ssd")
    setting("optimizer.lr.means", 1)(config)
    value = flatten(applied(config, {}))["optimizer.lr.means"]
    assert type(value) is float
