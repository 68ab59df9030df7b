"""Where folders come from, what happens offline, and how schedules are read."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from folders import weights_path, write_folder
from huggingface_hub import errors as hub_errors
from if_folders import write_if_folder
from sd3_folders import write_sd3_folder

from sdsjax.cli.checks import resolve
from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import BUILT_IN
from sdsjax.models.loading.sd3.folder import folders_of
from sdsjax.training.build import PRIORS


def refused(match, *args, **options):
    with pytest.raises(LoaderError, match=match) as caught:
        hub.resolve(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def no_network(monkeypatch):
    def touched(*_, **__):
        raise AssertionError("a local path touched the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", touched)


@pytest.mark.usefixtures("no_network")
def test_local_paths_never_reach_the_hub(tmp_path, monkeypatch):
    write_folder(tmp_path / "owner" / "name", "vae")
    assert hub.resolve(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    hub.load_component("owner/name", "vae")
    refused("no revision 'main'", tmp_path, revision="main")
    (tmp_path / "file").write_text("")
    refused("a file; expected a folder", tmp_path / "file")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "path",
    ["./a/b", "../a", "/a/b", "~/a", "a", "a/b/c", "a\\b", "", "a/", "toybox_sd"],
)
def test_paths_that_do_not_exist(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("no such folder; expected a local folder, a repository id", path)


@pytest.mark.usefixtures("no_network")
def test_built_in_names(tmp_path, monkeypatch):
    write_folder(tmp_path / "toybox-sd", "vae")
    monkeypatch.setattr(hub, "BUILT_IN", tmp_path)
    assert hub.resolve("toybox-sd") == tmp_path / "toybox-sd"
    assert "toybox-sd" in refused("no such folder", "toybox-xl")


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None, text="")


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (hub_errors.GatedRepoError, ("gated", "accept its licence", "hf auth login")),
        (hub_errors.RepositoryNotFoundError, ("neither a local folder", "private")),
        (hub_errors.RevisionNotFoundError, ("no revision 'r2'",)),
        (hub_errors.LocalEntryNotFoundError, ("hf download o/n --revision r2",)),
        (hub_errors.OfflineModeIsEnabled, ("hf download o/n --revision r2",)),
        (ConnectionError, ("not reachable", "hf download o/n")),
    ],
)
def test_errors_of_the_hub_in_one_line(monkeypatch, kind, parts):
    def fail(*_, **__):
        try:
            error = kind("something\nlong", response=response(401))
        except TypeError:
            error = kind("something\nlong")
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = refused("o/n", "o/n", revision="r2")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_is_asked_of_the_hub(monkeypatch, tmp_path, variant):
    calls = []

    def record(repo, **options):
        calls.append((repo, options))
        return str(write_folder(tmp_path, "unet"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    hub.resolve("o/n", revision="r2", variant=variant, folders=("unet",))
    (_, small), (repo, options) = calls
    assert small["allow_patterns"] == [
        *("model_index.json", "unet/config.json", "transformer/config.json")
    ]
    assert (repo, options["revision"]) == ("o/n", "r2")
    endings = {pattern.rsplit("*", 1)[1] for pattern in options["allow_patterns"]}
    assert endings == {".json", ".safetensors", ".txt", ".model"}
    assert ("*.fp16*" in options["ignore_patterns"]) == (variant is None)


def test_of_a_variant_its_own_files_are_asked_for(monkeypatch, tmp_path):
    """And of a whole model the second text encoder, where there is one."""
    asked = []

    def record(repo, allow_patterns, **_):
        asked.append(allow_patterns)
        if len(asked) == 1:
            return str(write_folder(tmp_path, "unet"))
        raise hub_errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    said = refused("hf download o/n", "o/n", variant="fp16")
    assert "unet/*.fp16*.safetensors" in asked[1]
    assert "unet/*.safetensors" not in asked[1]
    assert {"text_encoder_2/*.json", "tokenizer_2/*.txt", "model_index.json"} < {
        *asked[1]
    }
    assert '"*/*.fp16*.safetensors"' in said
    assert '"model_index.json"' in said


def test_fp16_is_fetched_where_there_is_nothing_else(monkeypatch, tmp_path):
    ignored = []

    def record(repo, ignore_patterns, **_):
        ignored.append(ignore_patterns)
        weights_path(write_folder(tmp_path, "unet"), "unet").unlink()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    hub.resolve("o/n", folders=("unet",))
    assert ["*.fp16*" in patterns for patterns in ignored] == [False, True, False]


REPOSITORIES = {
    "stable_diffusion": lambda root: write_folder(root, "unet"),
    "stable_diffusion3": write_sd3_folder,
    "deepfloyd": write_if_folder,
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """The root of each kind of repository, which is only read."""
    return {
        name: write(tmp_path_factory.mktemp(name))
        for name, write in REPOSITORIES.items()
    }


@pytest.mark.parametrize("prior", [*REPOSITORIES, "multiview"])
@pytest.mark.parametrize("other", REPOSITORIES)
def test_another_prior_s_repository_is_named_before_it_is_fetched(
    monkeypatch, repositories, prior, other
):
    """By every prior's own loader, and nothing but small files has come."""
    if other == prior:
        return
    root, asked = repositories[other], []

    def record(repo, allow_patterns, **_):
        asked.extend(allow_patterns)
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    config = resolve("ssd:toybox", {"prior.name": prior, "prior.folder": "o/n"})
    with pytest.raises(LoaderError, match=f"o/n: .* {other}.*prior.name={other}"):
        PRIORS[prior](config)
    assert all(name.endswith(".json") for name in asked)
    assert hub.kind_named("o/n") == other


def test_a_repository_of_single_files_is_said_to_be_one(monkeypatch, tmp_path):
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path)
    )
    refused("o/n: has no subfolder unet or transformer.*single files", "o/n")


@pytest.mark.parametrize("third", [True, False])
def test_t5_is_in_the_command_only_where_it_is_wanted(monkeypatch, third):
    def offline(*_, **__):
        raise hub_errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    said = refused("hf download o/n", "o/n", folders=folders_of(third))
    assert ('"text_encoder_3/*"' in said.partition("--exclude")[2]) != third


def test_another_prior_s_folder_is_named(tmp_path):
    root = write_sd3_folder(tmp_path)
    said = "a transformer and no unet; load it as the prior stable_diffusion3"
    refused(said, root)
    refused(
        "a unet and no transformer", BUILT_IN / "toybox-sd", folders=("transformer",)
    )


def test_offline_reads_the_cache_and_names_the_command(tmp_path):
    """In a fresh process: HF_HUB_OFFLINE and HF_HOME are read when it starts."""
    snapshot = tmp_path / "hub" / "models--o--n" / "snapshots" / ("0" * 40)
    write_folder(snapshot, "text_encoder")
    refs = tmp_path / "hub" / "models--o--n" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    program = (
        "from sdsjax.models import hub\n"
        "print(hub.load_component('o/n', 'text_encoder').config.layers)\n"
        "try: hub.resolve('o/absent')\n"
        "except hub.LoaderError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    layers, error = done.stdout.strip().split("\n")
    assert layers == "2"
    assert 'hf download o/absent --include "*/*.json"' in error


def schedule(tmp_path, **config):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    return hub.read_schedule(tmp_path)


def test_schedules(tmp_path):
    betas = {"beta_start": 0.00085, "beta_end": 0.012}
    found, prediction = schedule(tmp_path, beta_schedule="scaled_linear", **betas)
    assert prediction == "epsilon"  # SD 1.5's file does not say
    np.testing.assert_array_equal(found.alphas, NoiseSchedule.scaled_linear().alphas)
    found, _ = schedule(tmp_path, num_train_timesteps=100)
    np.testing.assert_array_equal(found.sigmas, NoiseSchedule.linear(100).sigmas)
    found, prediction = schedule(
        tmp_path, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    assert prediction == "v_prediction"
    expected = NoiseSchedule.squaredcos_cap_v2()
    np.testing.assert_array_equal(found.alphas, expected.alphas)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_schedule", "sigmoid"),
        ("prediction_type", "sample"),
        ("trained_betas", [0.1]),
        ("rescale_betas_zero_snr", True),
        ("num_train_timesteps", 0),
        ("beta_start", -1.0),
    ],
)
def test_schedules_that_are_not_implemented(tmp_path, key, value):
    with pytest.raises(LoaderError, match=key):
        schedule(tmp_path, **{key: value})
