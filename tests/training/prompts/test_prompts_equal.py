"""An asset that is trained among others is the asset that is trained alone."""

import json

import jax
import numpy as np
import pytest
import tiny_variants

from sdsjax.cli.checks import resolve
from sdsjax.cli.prompts import workdirs
from sdsjax.training import session, train
from sdsjax.training.prompts.job import Request, run_prompts

PROMPTS = ("a red mug", "a green ball", "a blue cube")
# The exact prior of true renders: random networks hardly listen to a prompt.
EXACT = {
    "prior__name": "empirical",
    "prior__captions": ("a white ball",),
    "prior__views": 2,
    "resolution": 8,
}
# A sum in another order is rounded otherwise; over a few steps that grows.
TOLERANCE = 1e-4
# What random networks predict with and without a prompt differs by a thousandth and
# less; of a float32's seven digits the difference keeps three or four.
OF_RANDOM_NETWORKS = 3e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of random networks in Stable Diffusion's layout, of 16x16 pixels."""
    return tiny_variants.write_random_folder(tmp_path_factory.mktemp("weights"))


def requests(name, folder, root, prompts=PROMPTS, **overrides):
    """The requests of a variant at sizes of seconds."""
    settings = tiny_variants.tiny(name, folder) | {"preview_every": 0, "steps": 3}
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    configs = [
        resolve(name, {**settings, **dotted, "prompt": prompt}) for prompt in prompts
    ]
    folders = workdirs(root, name.replace(":", "-"), configs)
    return [
        Request(config, path, [f"--config={name}"], f"list.txt:{number}")
        for number, (config, path) in enumerate(zip(configs, folders), 1)
    ]


@pytest.fixture
def states(monkeypatch):
    """Final states by directory; nothing is exported."""
    found = {}
    finish = session.Session.finish

    def keep(self, paths):
        found[self.directory.folder] = jax.device_get(self.state)
        finish(self, paths)

    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")
    monkeypatch.setattr(session.Session, "finish", keep)
    monkeypatch.setattr(session.exports, "export_all", lambda *_, **__: {})
    return found


def largest_difference(a, b) -> float:
    """Over all floating leaves, in units of the leaf's largest entry.

    Of a leaf that is a hundred times smaller than the largest of the tree, in units of
    a hundredth of that: a gradient may be zero but for rounding.
    """
    pairs = [
        (np.asarray(one), np.asarray(other))
        for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    floating = [
        (one, other)
        for one, other in pairs
        if np.issubdtype(one.dtype, np.floating) and one.size
    ]
    for one, other in pairs:
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if not np.issubdtype(one.dtype, np.floating):
            np.testing.assert_array_equal(one, other)
    sizes = [float(np.abs(one).max()) for one, _ in floating]
    least = max([1e-2 * size for size in sizes] + [1e-30])
    gaps = [
        float(np.abs(one - other).max()) / max(size, least)
        for (one, other), size in zip(floating, sizes)
    ]
    return max(gaps, default=0.0)


def assert_equal_to_single_runs(
    asked, states, tmp_path, alone, differ=1e-3, within=TOLERANCE, **options
):
    """alone: the requests that are made alone too; differ: how far the first two
    prompts are apart at least."""
    outcomes = run_prompts(asked, asked[0].workdir.parent, **options)
    assert [outcome.status for outcome in outcomes] == ["finished"] * len(asked)
    together = dict(states)
    for request in alone:
        folder = tmp_path / "alone" / request.workdir.name
        train.run(request.config, folder)
        a, b = states[folder], together[request.workdir]
        gaps = [largest_difference(*pair) for pair in zip(a, b)]
        print(request.workdir.name, dict(zip(a._fields, gaps)))
        assert max(gaps) < within
        assert int(b.step) == request.config.steps
    first, second = (together[request.workdir].params for request in asked[:2])
    assert largest_difference(first, second) >= differ


@pytest.mark.slow
def test_an_asset_among_others_is_the_asset_alone(tmp_path, states, capsys):
    phases = {"camera__first_steps": 1, "resolution": 12}
    said = {**EXACT, **phases, "diagnostics__variance_every": 2}
    asked = requests("ssd:image", "toybox-sd", tmp_path / "many", **said)
    # two chunks, of which the second is padded
    assert_equal_to_single_runs(asked, states, tmp_path, asked[:2], assets_per_device=2)
    assert "3 asset(s) in 2 chunk(s) of at most 2" in capsys.readouterr().err
    # what is finished among others is finished for the command of one
    train.run(asked[0].config, asked[0].workdir)
    assert "is finished (step 3): nothing to do" in capsys.readouterr().err
    rows = (asked[0].workdir / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]


# What a step may hold besides: groups of views, a second network, particles, density
# control, a grid of what is occupied, penalties. variant, overrides
OTHERS = {
    "a field": ("ssd:nerf", {}),
    "particles, and a network that learns": ("vsd", {"particles": 2}),
    "groups of views, density control, and a given picture": (
        "ssd:mv",
        {
            "representation__control": "3dgs",
            "representation__control_start": 1,
            "representation__control_every": 1,
            "reference__path": "toybox",
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(OTHERS))
def test_so_it_is_for_whatever_a_step_does(kind, folder, tmp_path, states):
    name, overrides = OTHERS[kind]
    if name == "ssd:mv":
        place = tmp_path / "weights"
        folder = tiny_variants.write_random_folder(place, multiview=True)
    else:
        overrides = {"prior__folder": str(folder), **overrides}
    # Plain steps: Adam makes full ones of gradients that are zero but for rounding.
    overrides = {"optimizer__eps": 1.0, **overrides}
    asked = requests(name, folder, tmp_path / "many", PROMPTS[:2], **overrides)
    how = {"differ": 0, "within": OF_RANDOM_NETWORKS, "assets_per_device": 2}
    assert_equal_to_single_runs(asked, states, tmp_path, asked[1:], **how)
