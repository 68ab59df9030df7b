"""LPIPS against torch's answers in float64 (goldens/lpips.npz), and its files."""

from pathlib import Path

import fixed_lpips as fixed
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.lpips.read_weights import load_lpips
from sdsjax.models.vision.lpips import LPIPS

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "lpips.npz"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The package's file of AlexNet's LPIPS, and what is in it."""
    path, stored = tmp_path_factory.mktemp("lpips"), fixed.published("alex")
    save_file(stored, path / "all.safetensors")
    return path / "all.safetensors", stored


def same(one, other):
    params = jax.device_get((one.params, other.params))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *params)
    return one.config == other.config and all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_distances_are_torch_s_and_0_between_equal_pictures(name, tmp_path):
    path = tmp_path / "all.safetensors"
    save_file(fixed.published(name), path)
    network, (a, b) = load_lpips(path), fixed.pictures()
    assert network.config == name
    apply = jax.jit(network.module.apply)
    found = np.asarray(apply({"params": network.params}, a, b))
    with np.load(GOLDENS) as file:
        want = file[name]
    # torch's own float32 is at 1e-7; the small one is a difference of what is alike
    assert np.linalg.norm(found - want) / np.linalg.norm(want) < 5e-6
    np.testing.assert_allclose(found[1], want[1], rtol=1e-4)
    assert found[2] == 0
    assert want[0] > 10 * want[1] > 0
    # the one and the other are the same pair
    mirrored = apply({"params": network.params}, b, a)
    np.testing.assert_allclose(mirrored, found, rtol=1e-6)


def test_every_spelling_of_the_files_is_the_same_network(published, tmp_path):
    path, stored = published
    network = load_lpips(path)
    np.savez(tmp_path / "all.npz", **stored)
    assert same(load_lpips(tmp_path / "all.npz"), network)
    # torchvision's features, with its classifier, beside a file of the heads
    parts = tmp_path / "parts"
    parts.mkdir()
    extra = {"classifier.1.weight": np.zeros((4, 5), np.float32)}
    save_file(fixed.features("alex") | extra, parts / "alexnet.safetensors")
    np.savez(parts / "heads.npz", **fixed.heads("alex", "lin{}.model.0.weight"))
    assert same(load_lpips(parts), network)


def changed(stored, key, value):
    return {**stored, key: value}


MISTAKES = {
    "heads alone": (lambda s: fixed.heads("alex"), "no first convolution"),
    "no heads": (lambda s: fixed.features("alex"), r"no tensor for LPIPS's head_0"),
    "unknown key": (
        lambda s: changed(s, "fc.weight", np.zeros((2, 2), np.float32)),
        "fc.weight is none of LPIPS's keys",
    ),
    "wide": (
        lambda s: changed(s, "net.slice2.3.bias", np.zeros(7, np.float32)),
        r"net.slice2.3.bias has shape \[7\]; expected \[192\]",
    ),
    "squeezenet": (
        lambda s: changed(s, "net.slice1.0.weight", np.zeros((64, 3, 7, 7), "f4")),
        "squeezenet is not implemented",
    ),
    "nan": (
        lambda s: changed(s, "net.slice1.0.bias", np.full(64, np.nan, "f4")),
        "not finite",
    ),
    "other scale": (
        lambda s: changed(s, "scaling_layer.scale", np.ones((1, 3, 1, 1), "f4")),
        "scaling_layer.scale is .* expected",
    ),
    "two heads": (
        lambda s: changed(s, "lin0.model.1.weight", np.ones((1, 64, 1, 1), "f4")),
        "two tensors for head_0",
    ),
    "whole numbers": (
        lambda s: changed(s, "net.slice1.0.bias", np.zeros(64, np.int32)),
        "net.slice1.0.bias",
    ),
}


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_file_that_is_not_lpips_is_one_line(name, ending, published, tmp_path):
    change, said = MISTAKES[name]
    path = tmp_path / f"x{ending}"
    stored = change(published[1])
    (np.savez(path, **stored) if ending == ".npz" else save_file(stored, path))
    with pytest.raises(LoaderError, match=said) as caught:
        load_lpips(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pth", ".txt"])
def test_damaged_files_and_pickles_are_one_line(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    for content in (b"", b"PK\x03\x04 and no more", b"\x80\x04."):
        path.write_bytes(content)
        with pytest.raises(LoaderError) as caught:
            load_lpips(path)
        assert "\n" not in str(caught.value)
    if ending == ".pth":
        assert "convert it once" in str(caught.value)
    with pytest.raises(LoaderError, match="no such file"):
        load_lpips(tmp_path / "none.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoaderError, match="import lpips"):
        load_lpips(tmp_path / "empty")


def test_an_npz_of_objects_is_never_unpickled(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"features.0.weight": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(LoaderError, match="no tensor of real numbers"):
        load_lpips(path)


def test_pictures_that_do_not_fit_are_refused():
    network = LPIPS("alex")
    small, whole = np.zeros((1, 40, 64, 3)), np.zeros((1, 64, 64, 3))
    for a, b, said in (
        (small, small, "at least 64"),
        (whole, small, "expected two"),
        (whole[..., :1], whole[..., :1], "expected two"),
    ):
        with pytest.raises(ValueError, match=said):
            network.init(jax.random.key(0), a, b)
