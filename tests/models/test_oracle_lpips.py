"""LPIPS against a torch module of the paper, and the published package where it is.

The bounds of `test_oracle_networks`: twice torch's own float32 error against float64,
and 5e-6.
"""

import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from sdsjax.models.loading.lpips.read_weights import load_lpips

torch = pytest.importorskip("torch")

from test_oracle_networks import (  # noqa: E402
    _exact_products,  # noqa: F401  a fixture of every test here
    as_close_as_torch,
    nchw,
)
from torch_lpips import torch_lpips, torchvision_features  # noqa: E402

pytestmark = pytest.mark.oracle


def filled(model, seed=0):
    """Weights that keep activations of order one, and heads above 0, as trained."""
    torch.manual_seed(seed)
    for key, value in model.named_parameters():
        if key.startswith("lin"):
            value.copy_(torch.rand(value.shape) / len(value[0]))
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        else:
            value.normal_(0, 0.2)
    return model


def pictures(size=(67, 80)):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 1, (2, 3, *size, 3)).astype(np.float32)
    b[1] = np.clip(a[1] + 0.03 * b[1], 0, 1)  # one that looks much the same
    b[2] = a[2]
    return a, b


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_lpips(tmp_path, name):
    oracle, (a, b) = filled(torch_lpips(name)), pictures()
    path = tmp_path / "lpips.safetensors"
    save_file({k: v.numpy().copy() for k, v in oracle.state_dict().items()}, path)
    network = load_lpips(path)
    found = np.asarray(jax.jit(network.module.apply)({"params": network.params}, a, b))

    def torch_in(dtype):
        return oracle.to(dtype)(nchw(a, dtype), nchw(b, dtype)).double().numpy()

    double, single = torch_in(torch.float64), torch_in(torch.float32)
    assert double[0] > 10 * double[1] > 0
    as_close_as_torch(found, single, double)
    assert np.linalg.norm(found - double) / np.linalg.norm(double) < 5e-6
    assert found[2] == 0


@pytest.fixture
def lpips(monkeypatch):
    """The package, with the layers of `torch_lpips` in the place of torchvision's."""
    models = types.ModuleType("torchvision.models")
    for name, called in (("alex", "alexnet"), ("vgg", "vgg16")):
        features = torchvision_features(name)
        model = types.SimpleNamespace(features=features)
        setattr(models, called, lambda model=model, **_: model)
    parent = types.ModuleType("torchvision")
    monkeypatch.setattr(parent, "models", models, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", parent)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return pytest.importorskip("lpips")


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_the_published_package_has_these_keys_and_answers(tmp_path, name, lpips):
    # its heads are the trained ones, which it carries; the features random
    published = lpips.LPIPS(net=name, pnet_rand=True, verbose=False).eval()
    path = tmp_path / "lpips.safetensors"
    stored = {k: v.numpy().copy() for k, v in published.state_dict().items()}
    save_file(stored, path)
    network, (a, b) = load_lpips(path), pictures()
    found = jax.jit(network.module.apply)({"params": network.params}, a, b)
    with torch.no_grad():
        a, b = nchw(a, torch.float32), nchw(b, torch.float32)
        want = published(a, b, normalize=True).numpy()[:, 0, 0, 0]
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-9)
