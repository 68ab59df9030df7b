"""What a user left open about the prior follows from what was said."""

import json
import shutil

import pytest

from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import load
from sdsjax.cli.prior_choice import kind_of_folder, single_views
from sdsjax.models.loading.hub import BUILT_IN
from sdsjax.training.build import PRIORS, build
from sdsjax.training.config import ConfigError


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Folders with the embedded priors' descriptions; nothing here reads weights."""
    root = tmp_path_factory.mktemp("copies")
    for name in ("toybox-sd", "toybox-mv"):
        shutil.copytree(
            BUILT_IN / name, root / name, ignore=shutil.ignore_patterns("*.safetensors")
        )
    return root


def chosen(config, **said):
    """The kind and the folder that a config has after these keys of `prior`."""
    said = {f"prior.{key}": value for key, value in said.items()}
    prior = resolve(config, said).prior
    return prior.name, prior.folder


def test_a_folder_says_by_its_network_which_kind_reads_it(copies):
    sd, mv = str(copies / "toybox-sd"), str(copies / "toybox-mv")
    assert chosen("ssd", folder=sd) == ("stable_diffusion", sd)
    assert chosen("ssd:toybox", folder=mv) == ("multiview", mv)
    assert chosen("ssd", folder="toybox-sd") == ("stable_diffusion", "toybox-sd")
    # what was said stands, and the loader answers
    assert chosen("ssd", folder=sd, name="multiview") == ("multiview", sd)
    # an exact prior reads no folder
    assert chosen("ssd:exact", folder=mv)[0] == "empirical"


def test_a_folder_that_says_nothing_keeps_the_configs_kind(copies, tmp_path):
    assert chosen("ssd", folder="owner/name") == ("multiview", "owner/name")
    shutil.copytree(copies / "toybox-sd", tmp_path / "odd")
    config = tmp_path / "odd" / "unet" / "config.json"
    config.write_text(json.dumps({"_class_name": "Flux"}))
    assert kind_of_folder(str(tmp_path / "odd")) is None
    config.write_text("{")
    assert kind_of_folder(str(tmp_path / "odd")) is None


def test_the_schedule_is_an_exact_prior_s_choice_alone():
    mixture = {"prior.name": "gaussian_mixture", "resolution": 8}
    for schedule, last in ((None, 0.068), ("flow_matching", 0.0002)):
        config = resolve("ssd:image", {**mixture, "prior.schedule": schedule})
        found = build(config).schedule
        assert abs(float(found.alphas[-1]) - last) < 1e-3
        assert found.straight == (schedule is not None)
    for config, name, words in (
        ("ssd:exact", "flow", "choose one of scaled_linear,.* flow_matching"),
        ("ssd", "flow_matching", "what a network was trained by is in its folder"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            resolve(config, {"prior.schedule": name})
        assert "\n" not in str(caught.value)


def test_a_kind_brings_its_embedded_weights():
    assert chosen("ssd", name="stable_diffusion") == ("stable_diffusion", "toybox-sd")
    assert chosen("csd", name="multiview") == ("multiview", "toybox-mv")


@pytest.mark.parametrize(
    ("said", "group", "warned"),
    [
        ({}, 4, False),
        ({"batch_size": 8}, 4, False),
        ({"batch_size": 2}, 1, True),
        ({"batch_size": 2, "prior.group": 2}, 2, False),
        ({"prior.group": 1}, 1, False),
        # a phase that is not there does not count
        ({"camera.first_batch_size": 3}, 4, False),
        ({"camera.first_batch_size": 3, "camera.first_steps": 9}, 1, True),
        ({"camera.milestones": ((9, 64, 6),)}, 1, True),
        ({"prior.name": "stable_diffusion", "batch_size": 2}, 1, False),
    ],
)
def test_views_are_grouped_where_every_batch_allows_it(said, group, warned):
    config = resolve("ssd", said)
    assert config.prior.group == group
    warning = single_views(config, said)
    assert (warning is not None) == warned
    if warning:
        assert f"batch_size = {config.batch_size}" in warning


OF_FILES = {
    "loras": (("x.safetensors", 1.0),),
    "tokenizer_folder": str(BUILT_IN / "toybox-sd"),
    "prediction_type": "epsilon",
}
NOT_TAKEN = {
    "stable_diffusion3": {**OF_FILES, "vae_folder": "toybox-sd"},
    "deepfloyd": {
        **OF_FILES,
        "perp_neg": True,
        "depth_folder": "toybox-dpt",
        "remat": "blocks",
    },
    "gaussian_mixture": {**OF_FILES, "remat": "dots"},
    "empirical": {**OF_FILES, "remat": "none"},
}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in NOT_TAKEN.items() for key in keys]
)
def test_what_a_prior_does_not_take_is_refused_and_not_ignored(name, key):
    """Before a file is looked at: the folder is of another kind."""
    said = {"prior.name": name, f"prior.{key}": NOT_TAKEN[name][key]}
    config = load("ssd:toybox")
    config.prior.update({k.removeprefix("prior."): v for k, v in said.items()})
    with pytest.raises(ConfigError, match=f"prior.{key} = .*{name} does not take it"):
        PRIORS[name](config)
