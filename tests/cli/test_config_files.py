"""Config files: found, loaded in isolation, written as JSON and read back."""

import json
import shutil
import sys

import pytest
from ml_collections import ConfigDict

from sdsjax.cli import config_files as configs_module
from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import (
    config_folder,
    config_names,
    default_workdir,
    load,
    locate,
    read_module,
)
from sdsjax.cli.listings import listing
from sdsjax.diffusion import NoiseSchedule
from sdsjax.training.build import PRIORS
from sdsjax.training.config import (
    ConfigError,
    flatten,
    from_json,
    load_json,
    slug,
    to_json,
)

HOUSE_KEYS = {
    *("prompt", "negative_prompt", "seed", "steps", "batch_size", "resolution"),
    *("checkpoint_every", "preview_every", "prior", "estimator", "timesteps"),
    *("representation", "camera", "optimizer", "losses", "diagnostics"),
}


@pytest.mark.parametrize("name", ["ssd", "sds"])
@pytest.mark.parametrize("variant", ["toybox", "sd21", "image"])
def test_every_variant_has_every_key(name, variant):
    config = load(f"{name}:{variant}")
    assert set(config) >= HOUSE_KEYS
    assert config.estimator.name == name
    assert (config.representation.name == "image") == (variant == "image")


def test_the_default_variant_is_the_first_of_the_file():
    assert load("ssd").to_dict() == load("ssd:mv").to_dict()
    assert load("ssd").prior.folder == "toybox-mv"
    assert load("csd").to_dict() == load("csd:toybox").to_dict()
    assert load("csd").prior.folder == "toybox-sd"
    assert (locate("ssd").label, locate("ssd:toybox").label) == ("ssd", "ssd-toybox")


def test_times_of_sd3_are_those_of_sd21_by_their_signal_to_noise():
    """alpha / sigma at 500 (200) of scaled-linear is that at 350 (160) of the flow."""
    ours, theirs = NoiseSchedule.flow_matching(), NoiseSchedule.scaled_linear()
    for name, key, times in (
        ("ssd", "estimator.threshold", (500, 350)),
        ("ssd", "timesteps.t_end", (500, 350)),
        ("nfsd", "estimator.switch_time", (200, 160)),
    ):
        section, key = key.split(".")
        found = [resolve(f"{name}:{kind}")[section][key] for kind in ("sd21", "sd3")]
        assert found == [*times]
        ratios = [float(s.alphas[t] / s.sigmas[t])
                  for s, t in zip((theirs, ours), times)]  # fmt: skip
        assert abs(ratios[1] / ratios[0] - 1) < 0.02


def test_the_paper_settings_of_sd21():
    config = load("ssd:sd21")
    first = config.camera.first_steps
    assert (config.steps, first, config.timesteps.name) == (15_000, 5000, "two_phase")
    assert (config.camera.first_resolution, config.resolution) == (64, 512)
    assert (config.camera.first_batch_size, config.batch_size) == (8, 1)


def test_every_file_has_variants_with_one_line_of_documentation():
    for name in config_names():
        module = read_module(config_folder() / f"{name}.py")
        for variant, make in module.VARIANTS.items():
            assert make.__doc__, f"{name}:{variant}"
            assert module.get_config(variant).to_dict() == make().to_dict()


@pytest.mark.parametrize("text", ["ssd", "ssd.py", "configs/ssd.py", "configs/ssd"])
def test_short_names_from_anywhere(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = locate(f"{text}:image")
    assert (source.name, source.variant, source.label) == ("ssd", "image", "ssd-image")
    assert source.path == config_folder() / "ssd.py"


def test_a_path_wins_over_a_name_and_a_drive_is_no_variant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    mine = tmp_path / "configs" / "ssd.py"
    mine.write_text("")
    assert locate("configs/ssd.py").path == mine
    assert locate(f"{mine}:image").variant == "image"
    with pytest.raises(ConfigError, match=r"mine\.py"):
        locate(r"C:\x\mine.py")


@pytest.fixture
def own_file(tmp_path):
    def write(text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        return str(path)

    return write


def test_a_users_own_file_starts_from_base(own_file):
    path = own_file(
        "from configs.base import base_config\n"
        "def get_config():\n"
        "    from configs import base\n"
        "    config = base.base_config()\n"
        "    config.steps = 7\n"
        "    return config\n"
    )
    before = {name for name in sys.modules if name.split(".")[0] == "configs"}
    assert load(path).steps == 7
    assert {n for n in sys.modules if n.split(".")[0] == "configs"} == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no get_config"),
        ("def get_config(:\n", "SyntaxError"),
        ("import nothing_like_this\n", "nothing_like_this"),
        ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def get_config():\n    return {}\n", "must return"),
        ("raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_a_file_that_fails_is_one_line(own_file, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(own_file(text))
    assert "\n" not in str(caught.value)
    assert "mine.py" in str(caught.value)


def test_nothing_is_executed_in_a_run_directory(own_file, tmp_path):
    path = own_file("raise RuntimeError('executed')\n")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="run directory"):
        load(path)


def test_missing_files_and_variants_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ssd'"):
        locate("configs/sssd.py")
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        load("ssd:imag")


def test_an_installed_wheel_finds_its_packaged_configs(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "sdsjax"
    shutil.copytree(config_folder(), package / "_configs")
    base = package / "_configs" / "base.py"
    text = base.read_text()
    base.write_text(text.replace("config.seed = 0", "config.seed = 4321"))
    assert base.read_text() != text
    monkeypatch.setattr(configs_module, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert load("ssd:image").seed == 4321
    shutil.rmtree(package)
    with pytest.raises(ConfigError, match="reinstall"):
        load("ssd")


def test_json_there_and_back(tmp_path):
    config = load("ssd")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config)))
    again = load_json(path)
    assert isinstance(again, ConfigDict)
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.camera.azimuth, tuple)
    assert from_json(to_json(config)).to_dict() == config.to_dict()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_damaged_json_is_one_line(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="damaged"):
        load_json(path)


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a blue house", "a-blue-house"),
        ("Ä  Häuschen, 50% off/..\\", "a-hauschen-50-off"),
        ("word " * 40, "word-word-word-word-word-word-word-word"),
    ],
)
def test_slug(prompt, expected):
    assert slug(prompt) == expected


def test_slugs_without_letters_differ():
    assert slug("\u5bb6") != slug("\u6728")
    assert slug("\u5bb6").isalnum()


def test_default_workdir():
    label, config = locate("ssd:image").label, load("ssd:image")
    expected = f"runs/ssd-image-{slug(config.prompt)}-0"
    assert default_workdir(label, config) == expected


def test_the_list_shows_each_prior_and_the_weights_that_variants_name():
    """Every repository that a variant's prior is read from, beneath its prior."""
    text = " ".join(listing().partition("\nprior: ")[2].split())
    at = [text.index(f"{name}: ") for name in PRIORS]
    parts = dict(zip(PRIORS, (text[a:b] for a, b in zip(at, [*at[1:], None]))))
    for name in config_names():
        module = read_module(config_folder() / f"{name}.py")
        for make in module.VARIANTS.values():
            prior = make().prior
            if "/" in prior.folder:
                assert prior.folder in parts[prior.name]
    assert "gated" in parts["stable_diffusion3"]
