"""`python -m sdsjax.toybox`: what each command hands to what it runs."""

import json

import numpy as np
import pytest
from PIL import Image

from sdsjax.models.loading import hub
from sdsjax.toybox.__main__ import main
from sdsjax.toybox.scoring import (
    azimuth,
    card,
    card_companions,
    card_flow,
    card_views,
    flow,
    judge,
    measure,
    measure_views,
    sample_views,
)
from sdsjax.toybox.training import (
    pool,
    train_clip,
    train_depth,
    train_flow,
    train_multiview,
    train_prior,
)
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe


@pytest.fixture
def called(monkeypatch):
    """What was called, in order, in the place of hours of training."""
    calls = []

    def record(module, name, result=None):
        def function(*args, **how):
            calls.append((f"{module.__name__.rpartition('.')[2]}.{name}", args, how))
            return result

        monkeypatch.setattr(module, name, function)

    for module in (train_prior, train_flow, train_multiview, train_clip, train_depth):
        record(module, module.__name__.rpartition(".")[2])
    for module in (card, card_flow, card_views, card_companions):
        record(module, "write_card")
    record(pool, "build_pool", "pictures")
    record(measure_views, "heldout_sets", "held out")
    for module, name in ((judge, "judge"), (azimuth, "azimuth")):
        for verb, result in (("train", "params"), ("save", None), ("load", "network")):
            record(module, f"{verb}_{name}", result)
    record(azimuth, "error_on_renders", 4.25)
    return calls


RECIPES = {
    "prior": (train_prior.PriorRecipe, card),
    "flow": (train_flow.FlowRecipe, card_flow),
    "multiview": (MultiViewRecipe, card_views),
}


@pytest.mark.parametrize("network", RECIPES)
def test_a_prior_is_trained_by_its_recipe_and_carded_by_the_same(
    network, called, tmp_path, capsys
):
    work, out = tmp_path / "work", tmp_path / "out"
    flags = ["--work", str(work), "--out", str(out), "--seed", "3", "--singles", "7"]
    assert main(["train", network, *flags]) == 0
    make, cards = RECIPES[network]
    recipe = make()._replace(seed=3, singles=7)
    names = [name for name, _, _ in called]
    # what judges it is missed before hours of training, not after
    before = ["judge.load_judge"]
    before += ["azimuth.load_azimuth"] if network == "multiview" else []
    short = cards.__name__.rpartition(".")[2]
    assert names == [
        *before, f"train_{network}.train_{network}", f"{short}.write_card"
    ]  # fmt: skip
    (_, train, _), (_, written, _) = called[-2:]
    assert train == (work, out, recipe)
    assert written == (out, work, recipe)
    assert capsys.readouterr().out == f"wrote {out}\n"


@pytest.mark.parametrize("network", ["clip", "depth", "normals"])
def test_a_companion_is_trained_under_its_name(network, called, tmp_path):
    flags = ["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--batch", "8"]
    assert main(["train", network, *flags]) == 0
    (name, train, how), (_, written, _) = called
    module = train_clip if network == "clip" else train_depth
    assert name.startswith(module.__name__.rpartition(".")[2])
    assert how == ({} if network == "clip" else {"name": network})
    kind = train_clip.ClipRecipe if network == "clip" else train_depth.DepthRecipe
    assert train == (tmp_path, tmp_path / "out", kind(batch=8))
    assert written == (network, tmp_path / "out", tmp_path, kind(batch=8))


def test_the_judge_learns_from_the_pictures_of_the_prior(called, tmp_path):
    flags = ["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "5"]
    assert main(["train", "judge", *flags, "--judge_steps", "70"]) == 0
    (_, where, how), (_, trained, steps), (_, saved, _) = called
    assert where == (tmp_path / "pool",)
    assert how == {"singles": 600, "pairs": 120, "seed": 5}
    assert (trained, steps) == ((tmp_path, "pictures"), {"steps": 70})
    assert saved == ("params", tmp_path / "out")


def test_the_azimuth_network_keeps_its_error_on_held_out_sets(called, tmp_path, capsys):
    flags = ["--work", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train", "azimuth", *flags]) == 0
    by_name = {name: (args, how) for name, args, how in called}
    where, how = by_name["pool.build_pool"]
    assert (where[0], how["views"]) == (tmp_path / "sets", 4)
    assert by_name["azimuth.train_azimuth"] == (
        (tmp_path, "pictures"),
        {"steps": 6000},
    )
    assert by_name["azimuth.error_on_renders"][0] == ("network", "held out")
    saved = [args for name, args, _ in called if name == "azimuth.save_azimuth"]
    folder, error = tmp_path / "out", {"median_degrees_on_held_out_renders": 4.25}
    assert saved == [("params", folder), ("params", folder, error)]
    assert "held-out renders: 4.2 degrees" in capsys.readouterr().out


def test_measuring_prints_the_figures(monkeypatch, tmp_path, capsys):
    def figures(name, folder, work):
        return {"clean": {"of": [name, folder, str(work)]}}

    monkeypatch.setattr(card_companions, "measure", figures)
    flags = ["--folder", "toybox-dpt", "--work", str(tmp_path)]
    assert main(["measure", "depth", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"clean": {"of": ["depth", "toybox-dpt", str(tmp_path)]}}


JUDGED = {
    "stable_diffusion": (hub, "load_stable_diffusion"),
    "stable_diffusion3": (flow, "load_flow"),
    "multiview": (hub, "load_multiview"),
}


@pytest.mark.parametrize("kind", JUDGED)
def test_a_folder_is_judged_by_its_kind(kind, monkeypatch, tmp_path, capsys):
    module, load = JUDGED[kind]
    side, asked = 4, []

    def judged(networks, **how):
        asked.append((networks, how))
        shape = (2, 4, side, side, 3) if kind == "multiview" else (2, side, side, 3)
        return {"kind": 0.5}, np.zeros(shape), ["a red mug", "a blue mug"]

    def other(*_, **__):
        raise AssertionError

    monkeypatch.setattr(hub, "resolve", lambda folder: f"at {folder}")
    monkeypatch.setattr(hub, "kind_of", lambda root: kind)
    monkeypatch.setattr(module, load, lambda root: f"networks {root}")
    of_sets = kind == "multiview"
    monkeypatch.setattr(measure_views, "judge_views", judged if of_sets else other)
    monkeypatch.setattr(measure, "judge_samples", other if of_sets else judged)
    sheet = tmp_path / "sheet.png"
    flags = ["--count", "2", "--guidance_scale", "4", "--steps", "9", "--seed", "6"]
    assert main(["judge", "--folder", "f", *flags, "--sheet", str(sheet)]) == 0
    ((networks, how),) = asked
    assert networks == "networks at f"
    drawn = {"draw": flow.sample} if kind == "stable_diffusion3" else {}
    assert how == {"count": 2, "seed": 6, "guidance_scale": 4.0, "steps": 9} | drawn
    said, _, rest = capsys.readouterr().out.rpartition("wrote ")
    assert json.loads(said) == {"guidance_scale": 4.0, "steps": 9, "kind": 0.5}
    assert rest == f"{sheet}\n"
    # every view of a set is a sample of the sheet: grey squares above captions
    count = 8 if of_sets else 2
    shown = np.asarray(Image.open(sheet))
    assert shown.shape == (2 * side + 36, 8 * 2 * side, 3)
    columns = shown[: 2 * side].reshape(2 * side, 8, 2 * side, 3)
    mean = np.rint(columns.mean((0, 2, 3))).tolist()
    assert mean == [128] * count + [255] * (8 - count)


def test_views_are_drawn_as_asked(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(hub, "load_multiview", lambda folder: f"networks {folder}")
    monkeypatch.setattr(
        sample_views, "view_sheet", lambda *args, **how: asked.append((args, how))
    )
    out = str(tmp_path / "views.png")
    flags = ["--out", out, "--steps", "3", "--prompts", "a red mug", "a blue mug"]
    assert main(["views", "--folder", "f", *flags]) == 0
    ((args, how),) = asked
    assert args == (out, "networks f", ["a red mug", "a blue mug"])
    assert how == {"guidance_scale": 3.0, "steps": 3, "seed": 0}
    assert capsys.readouterr().out == f"wrote {out}\n"
