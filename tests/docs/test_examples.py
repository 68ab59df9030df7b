"""The examples of docs/examples: they run, stay short, and show what they were told."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdsjax
from sdsjax.diffusion import NoiseSchedule
from sdsjax.library.load_prior import LoadedPrior
from sdsjax.priors import gaussian_mixture
from sdsjax.toybox.scoring import judge
from sdsjax.toybox.world.captions import parse_caption

SCHEDULE = NoiseSchedule.scaled_linear()
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
NAMES = ("mesh", "sdf", "poster")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield lambda name: importlib.import_module(name)
    for name in (*NAMES, "distilling", "own_prior", "own_estimator"):
        sys.modules.pop(name, None)


def user_lines(text: str) -> int:
    """Lines of code between the marks `# begin` and `# end`, blank ones left out."""
    kept, inside = 0, False
    for line in text.splitlines():
        if line.strip().startswith("# begin"):
            inside = True
        elif line.strip() == "# end":
            inside = False
        else:
            kept += inside and bool(line.strip())
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_under_forty_lines_beside_its_own_start(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert 10 < user_lines(text) <= 50
    renderer, distillation = text.split("# end")[:2]
    assert user_lines(renderer + "# end") < 40
    assert user_lines(distillation + "# end") < 25


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_move_every_parameter_and_the_picture_stays_one(
    name, example, monkeypatch
):
    """On an exact prior, whose program is small; what is loaded is tested below."""
    asked = []

    def two_colours(prompt, folder, **settings):
        asked.append((prompt, folder))
        flat = jnp.array([0.8, -0.8])[:, None, None, None] * jnp.ones((1, 8, 8, 3))
        keeps = [True, False]
        prior = gaussian_mixture(SCHEDULE, [1.0, 1.0], flat, [0.1, 0.1], keeps)
        return LoadedPrior((), lambda params: prior, (8, 8, 3))

    monkeypatch.setattr(sdsjax, "load_prior", two_colours)
    module = example(name)
    small = {} if name == "poster" else {"size": 8}
    before, after = module.main(steps=0, **small), module.main(steps=2, **small)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
        assert jnp.isfinite(b).all()
        assert not np.allclose(a, b)
    if name == "poster":
        rgb = module.render(after, None)
    else:
        rgb = example("distilling").views(module.render, after, 1, size=16)[0]
    assert rgb.shape[-1] == 3
    assert float(rgb.min()) >= -1e-5
    assert float(rgb.max()) <= 1 + 1e-5
    parse_caption(asked[0][0])
    assert asked[0][1] in ("toybox-sd", "toybox-mv")


@pytest.mark.parametrize("name", ["own_prior", "own_estimator"])
def test_a_prior_and_an_estimator_of_one_s_own_reach_the_colour(name, example):
    text = (FOLDER / f"{name}.py").read_text()
    assert user_lines(text) < 40
    pixels = example(name).main(rgb=(0.9, 0.5, 0.1))
    np.testing.assert_allclose(pixels.mean((0, 1)), [0.9, 0.5, 0.1], atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "color"),
    [
        ("sdf", "snowman", "red"),
        ("mesh", "duck", "yellow"),
        ("poster", "duck", "yellow"),
    ],
)
def test_the_picture_shows_the_prompt(name, kind, color, example):
    """The toybox's judge, which the prior never sees, names the colour in most views,
    and the kind in one."""
    module = example(name)
    params = module.main(steps=150)
    if name == "poster":
        rgb = module.render(params, None)[None]
    else:
        rgb = example("distilling").views(module.render, params, 4)
    said = judge.load_judge()(2 * rgb - 1)
    colors = [judge.COLOR_NAMES[i] for i in said.color]
    assert colors.count(color) > len(colors) / 2
    assert kind in [judge.KIND_NAMES[i] for i in said.kind]
