"""A card as it is written: the figures asked for, in its table, its log and its sheet.

What measures networks is replaced by numbers that are known; the shipped cards have
their tests in test_cards.py.
"""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from sdsjax.toybox.scoring import card, card_companions, card_flow, card_views
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.training.train_clip import ClipRecipe
from sdsjax.toybox.training.train_depth import DepthRecipe
from sdsjax.toybox.training.train_flow import FlowRecipe
from sdsjax.toybox.training.train_prior import PriorRecipe

WEIGHTS = b"weights"
SIDE = 4


@pytest.fixture
def folders(tmp_path):
    """(The prior's folder, with a file of weights; its training's folder)."""
    folder, work = tmp_path / "out", tmp_path / "work"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(WEIGHTS)
    work.mkdir()
    return folder, work


def log(work, stage, *rows):
    (work / stage).mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (work / stage / "log.jsonl").write_text(lines)


def shares(kind, count=20):
    return {
        "kind": kind, "color": 0.75, "view": 0.6, "pair": 0.125,
        "singles": count - count // 4, "directed": 1, "pairs": count // 4,
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """What the cards of toybox-sd and toybox-flow measure; how it was asked for."""
    asked = []

    def judge_samples(networks, *, count, guidance_scale=3.0, draw=None):
        asked.append((networks, count, guidance_scale, draw))
        grey = np.linspace(-1, 1, count)[:, None, None, None]
        pictures = np.broadcast_to(grey, (count, SIDE, SIDE, 3))
        return shares(guidance_scale / 10, count), pictures, ["a red mug"] * count

    def judge_renders(pool, *, count):
        assert pool == "held out"
        asked.append(count)
        return shares(1.0)

    measure = card.measure
    monkeypatch.setattr(measure, "heldout_pool", lambda folder: "held out")
    monkeypatch.setattr(measure, "judge_samples", judge_samples)
    monkeypatch.setattr(measure, "judge_renders", judge_renders)
    return asked


def table_of(text, title):
    """The cells of the first table after a line that begins with `title`."""
    rest = iter(text[text.index(title) :].splitlines()[1:])
    lines = [line for line in rest if line]
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


FILE = ["unet/model.safetensors", "7", hashlib.sha256(WEIGHTS).hexdigest()]


def test_the_card_of_a_prior_shows_what_was_measured(folders, measured, monkeypatch):
    folder, work = folders
    log(work, "vae", {"step": 50, "loss": 2.0, "seconds_per_step": 9.0},
        {"step": 100, "loss": 0.5, "seconds_per_step": 9.0})  # fmt: skip
    log(work, "unet", {"step": 50, "loss": 0.75}, {"step": 200, "loss": 0.25})
    renders = {}

    def loss(networks, pool, *, count):
        renders["loss"] = networks, pool, count
        return {50: 0.5, 950: 0.00256}

    def psnr(networks, pool, *, count):
        renders["psnr"] = networks, pool, count
        return 31.25

    monkeypatch.setattr(card.hub, "load_stable_diffusion", lambda name: [name])
    monkeypatch.setattr(card.measure, "loss_by_timestep", loss)
    monkeypatch.setattr(card.measure, "reconstruction_psnr", psnr)
    card.write_card(folder, work, PriorRecipe(start="a/toybox-sd"), count=20)
    text = (folder / "README.md").read_text()
    networks = [str(folder)]
    assert renders == dict.fromkeys(("loss", "psnr"), (networks, "held out", 20))
    # all at the card's own scale, a fifth at others, four renders a sample
    assert measured == [
        (networks, 20, 3.0, None),
        (networks, 4, 2.0, None),
        (networks, 4, 5.0, None),
        80,
    ]
    assert "The weights of `toybox-sd`, trained on for 100 steps of the VAE" in text
    assert "then 200 of the UNet" in text
    assert "The VAE's reconstruction: 31.2 dB." in text
    assert table_of(text, "## Fresh renders") == [["50", "0.5000"], ["950", "0.0026"]]
    assert "## The judge on 20 samples, guidance scale 3.0, DDIM 40" in text
    assert table_of(text, "## The judge")[0] == ["kind", "30.0%", "100.0%"]
    assert table_of(text, "## The judge")[3][1:] == ["12.5%", "12.5%"]
    swept = table_of(text, "Other guidance scales, 4 samples each")
    assert [row[:2] for row in swept] == [["2", "20.0%"], ["5", "50.0%"]]
    assert table_of(text, "## Files") == [FILE]
    record = json.loads((folder / "measured.json").read_text())
    assert record["steps"] == {"vae": 100, "unet": 200}
    assert record["last_training_loss"] == {"vae": 0.5, "unet": 0.25}
    assert card.card_text(folder, record) == text
    plots = (folder / "losses.svg").read_text()
    assert ">vae loss<" in plots
    assert ">unet loss<" in plots
    assert "seconds" not in plots
    # twenty samples of doubled pixels, eight a row, above a band for the caption
    sheet = np.asarray(Image.open(folder / "samples.png"))
    assert sheet.shape == (3 * (2 * SIDE + 36), 8 * 2 * SIDE, 3)
    grey = [round(127.5 * (x + 1)) for x in np.linspace(-1, 1, 20)]
    found = sheet[SIDE :: 2 * SIDE + 36, SIDE :: 2 * SIDE, 0].ravel()
    assert found[:20].tolist() == grey
    assert (found[20:] == 255).all()


def test_the_card_of_a_flow_draws_its_samples_by_euler(folders, measured, monkeypatch):
    folder, work = folders
    log(work, "transformer", {"step": 10, "loss": 1.5}, {"step": 30, "loss": 0.5})
    flow = card_flow.flow
    monkeypatch.setattr(flow, "load_flow", lambda name: [name])
    monkeypatch.setattr(flow, "loss_by_level", lambda *_, count: {50: count / 400})
    card_flow.write_card(folder, work, FlowRecipe(batch=8), count=1000)
    text = (folder / "README.md").read_text()
    assert {one[3] for one in measured[:3]} == {flow.sample}
    assert [one[1] for one in measured[:3]] == [1000, 200, 200]
    assert "30 steps of 8 pictures (240)" in text
    assert table_of(text, "## Fresh renders") == [["50", "1.0000"]]
    assert "## The judge on 1000 samples, guidance scale 3.0, 40 Euler steps" in text
    assert table_of(text, "## Files") == [FILE]
    record = json.loads((folder / "measured.json").read_text())
    assert (record["steps"], record["last_training_loss"]) == (30, 0.5)
    assert card_flow.card_text(folder, record) == text


def test_scales_are_sorted_as_numbers():
    rows = card._swept({"10.0": shares(0.1), "2.0": shares(0.2)})[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["2", "10"]


def test_the_card_of_sets_follows_the_last_cooldown(folders, monkeypatch):
    folder, work = folders
    log(work, "map", {"step": 40, "map": 0.5}, {"step": 80, "map": 0.25})
    log(work, "unet", {"step": 500, "mse": 0.5, "pictures_per_second": 12.0},
        {"step": 900, "mse": 0.25, "pictures_per_second": 20.0})  # fmt: skip
    for begun, step in ((900, 950), (1000, 1300)):
        log(work, f"cooldown-{begun}", {"step": begun, "mse": 0.5},
            {"step": step, "mse": 0.125})  # fmt: skip
    measures, renders, sheets = card_views.measures, [], []

    def judge_renders(pool, *, count):
        renders.append((pool, count))
        return shares(1.0)

    found = shares(0.5) | {"azimuth": 4.25}
    losses = {"four views": {50: 0.25, 950: 0.125}, "single views": {50: 0.5, 950: 1}}
    monkeypatch.setattr(card_views, "load_multiview", lambda name: [name])
    monkeypatch.setattr(measures, "judge_views", lambda n, count: (found, None, None))
    monkeypatch.setattr(measures, "heldout_sets", lambda path: path.relative_to(work))
    monkeypatch.setattr(measures, "loss_of_views", lambda networks, path: losses)
    monkeypatch.setattr(card_views, "judge_renders", judge_renders)
    monkeypatch.setattr(card_views, "view_sheet", lambda *args: sheets.append(args))
    card_views.write_card(folder, work, MultiViewRecipe(batch=8), count=50)
    text = (folder / "README.md").read_text()
    ((pool, count),) = renders
    assert (pool.parts, count) == (("heldout_sets", "0"), 200)
    ((sheet, networks, captions),) = sheets
    assert (sheet, networks) == (folder / "samples.png", [str(folder)])
    assert "a purple car on a white table" in captions
    assert "The map alone: 80 steps of 64 pictures" in text
    assert "Then all: 1300 steps of 8 pictures (10400)" in text
    assert "At best 20 pictures a second" in text
    assert table_of(text, "## Fresh sets") == [
        ["50", "0.2500", "0.5000"],
        ["950", "0.1250", "1.0000"],
    ]
    assert "## The judge on 50 sets of four, guidance scale 3.0, DDIM 40" in text
    assert table_of(text, "## The judge")[0] == ["kind", "50.0%", "100.0%"]
    assert "differs from the one asked for by 4.2 degrees" in text
    record = json.loads((folder / "measured.json").read_text())
    assert record["steps"] == {"map": 80, "unet": 900, "cooldown-1000": 1300}
    assert "cooldown-1000 mse" in (folder / "losses.svg").read_text()
    record["samples_named_rightly"]["azimuth"] = None
    record["loss_by_timestep"] = losses
    again = card_views.card_text(folder, record)
    assert "No sample shows a single object with sides." in again


@pytest.mark.parametrize("name", ["depth", "normals", "clip"])
def test_the_card_of_a_companion_tells_a_training_cut_short(name, folders, monkeypatch):
    folder, work = folders
    log(work, card_companions.STAGES[name], {"step": 50, "loss": 2.0},
        {"step": 75, "loss": 1.5})  # fmt: skip
    measures, sheets = card_companions.measures, []
    monkeypatch.setattr(measures, "heldout_surfaces", lambda path: path.name)
    monkeypatch.setattr(card_companions, "load_companion", lambda *args: args)
    monkeypatch.setattr(card_companions, "load_clip_scorer", lambda path: (path, "ids"))

    def shapes(network, what, pool):
        assert (network, what, pool) == (
            *((str(folder), name), name),
            "heldout_surfaces",
        )
        return {"clean": {"degrees": 20.04}} if what == "normals" else {
            "clean": {"correlation": 0.875, "abs_rel": 0.125},
            "flat": {"correlation": 0.0, "abs_rel": 0.25},
        }  # fmt: skip

    def scorer(network, tokenizer, pool):
        assert (network, tokenizer, pool) == (str(folder), "ids", "heldout_surfaces")
        return {"early": {"kind": 0.5, "wrong_view": 0.75}}

    monkeypatch.setattr(measures, "measure_shapes", shapes)
    monkeypatch.setattr(measures, "measure_scorer", scorer)
    for sheet in ("shape_sheet", "scorer_sheet"):
        monkeypatch.setattr(
            card_companions, sheet, lambda path, *rest: sheets.append((path, rest))
        )
    recipe = ClipRecipe(steps=75) if name == "clip" else DepthRecipe(steps=100)
    card_companions.write_card(name, folder, work, recipe)
    text = (folder / "README.md").read_text()
    ((path, (network, *rest)),) = sheets
    assert path == folder / "samples.png"
    assert rest[-1] == "heldout_surfaces"
    assert network == (folder if name == "clip" else (folder, name))
    expected = {
        "depth": [["clean", "0.875", "0.125"], ["flat", "0.000", "0.250"]],
        "normals": [["clean", "20.0"]],
        "clip": [["early", "0.500", "0.750"]],
    }
    assert table_of(text, "## Held-out renders") == expected[name]
    told = "75 steps of batch" if name == "clip" else "75 of 100 steps of batch"
    assert f"From random weights, {told}" in " ".join(text.split())
    assert table_of(text, "## Files") == [FILE]
    assert f"python -m sdsjax.toybox measure {name} --folder OUT" in text
    record = json.loads((folder / "measured.json").read_text())
    assert (record["steps"], record["last_training_loss"]) == (75, 1.5)
    assert card_companions.card_text(name, folder, record) == text
