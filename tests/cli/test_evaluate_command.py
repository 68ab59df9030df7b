"""`python -m sdsjax.evaluate` and `compare` of lists: finished runs, and mistakes."""

import json
import re
from types import SimpleNamespace

import fixed_lists
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdsjax.cli import compare_command
from sdsjax.cli.scores import measuring
from sdsjax.cli.scores.evaluate_command import cli
from sdsjax.evaluation.records import read_figures
from sdsjax.exports.scores.section import BEGIN, END
from sdsjax.training.config import from_json, to_json


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Two lists of two prompts, the first whole, the second lacking one asset."""
    root = tmp_path_factory.mktemp("lists")
    first = fixed_lists.write(root / "one", fixed_lists.PROMPTS)
    more = {"missing": "a blue mug", "colour": 2}
    second = fixed_lists.write(root / "two", fixed_lists.PROMPTS, **more)
    return first, second


def test_a_list_is_measured_among_its_own_prompts_and_compared(lists, capsys):
    first, second = lists
    assert cli([str(first), str(second)]) == 0
    said = capsys.readouterr()
    assert "'a blue mug' is diverged: it has no numbers" in said.err
    run = first / "a-red-ball"
    scores = json.loads((run / "scores.json").read_text())
    clip = scores["clip"]
    assert clip["captions"] == 2
    assert clip["captions_from"] == "the list's prompts"
    assert len(clip["views"]["similarity"]) == len(clip["views"]["orbits"]) == 16
    nearest = clip["views"]["nearest"]
    assert clip["r_precision"] == np.mean([text == "a red ball" for text in nearest])
    assert clip["similarity"] == pytest.approx(np.mean(clip["views"]["similarity"]))
    assert read_figures(run)["clip_similarity"].value == clip["similarity"]
    report = (run / "report.html").read_text()
    assert report.startswith("before")
    assert "CLIP R-precision" in report
    index = (first / "index.html").read_text()
    assert "CLIP similarity" in index
    out = first.parent / "page.html"
    for _ in range(2):
        words = [str(first), str(second), f"--out={out}"]
        assert compare_command.cli(words) == 0
    page = out.read_text()
    assert page.count("<strong>") >= 1
    assert "1 of 2 assets failed or are missing" in page
    assert "diverged" in page
    for prompt in fixed_lists.PROMPTS:
        assert f"<th>{prompt}</th>" in page
    assert "<h2>Single objects</h2>" in page
    assert not re.search(r"https?://", page)


def random_alexnet():
    """Any weights under LPIPS's keys: features of torchvision, heads above 0."""
    rng, found, before = np.random.default_rng(0), {}, 3
    layers = ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3))
    for head, (index, width, kernel) in enumerate(layers):
        weight = rng.normal(0, before**-0.5 / kernel, (width, before, kernel, kernel))
        found[f"features.{index}.weight"] = weight.astype(np.float32)
        found[f"features.{index}.bias"] = np.zeros(width, np.float32)
        found[f"lin{head}.model.1.weight"] = np.ones((1, width, 1, 1), np.float32)
        before = width
    return found


def test_a_single_run_is_found_among_the_toybox_and_lpips_is_added(
    lists, tmp_path, monkeypatch
):
    run, weights = lists[0] / "a-red-ball", tmp_path / "alex.safetensors"
    save_file(random_alexnet(), weights)
    drawn = measuring.read_drawn(run).run
    orbits = measuring.heldout_orbits()
    views = measuring.draw_views(drawn.render, orbits, size=64)
    truth = views._replace(rgb=views.rgb[::-1])
    monkeypatch.setattr(measuring, "true_views", lambda *_, **__: truth)
    assert cli([str(run), f"--lpips={weights}"]) == 0
    scores = json.loads((run / "scores.json").read_text())
    each = scores["lpips"]["views"]["truth"]
    # turned round, the 16 pairs are eight, each seen from both sides
    np.testing.assert_allclose(each, each[::-1], rtol=1e-5)
    assert scores["lpips"]["truth"] == pytest.approx(np.mean(each)) != 0
    assert scores["clip"]["captions"] == 270
    assert scores["clip"]["captions_from"] == "the toybox's vocabulary"
    assert not {"source", "reference"} & set(scores["lpips"])


def test_pictures_for_lpips_are_of_the_same_cameras_and_on_white(lists, tmp_path):
    folder = lists[0] / "a-red-ball"
    run = measuring.read_drawn(folder).run
    assert measuring._to_reference(run) is None
    assert measuring._to_source(run) is None
    plain = to_json(run.config)
    # an edit that changed nothing
    edited = from_json(plain | {"edit": plain["edit"] | {"path": str(folder)}})
    ours, source = measuring._to_source(run._replace(config=edited))
    assert ours.shape == (16, 64, 64, 3)
    np.testing.assert_allclose(ours, source, atol=1e-5)
    assert ours.min() < 0.9
    # half of a red square, the other half nothing
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32] = 255, 0, 0, 255
    Image.fromarray(rgba).save(tmp_path / "half.png")
    given = plain["reference"] | {"path": str(tmp_path / "half.png"), "fit": False}
    blank = SimpleNamespace(
        config=from_json(plain | {"reference": given}),
        render=lambda c: SimpleNamespace(rgb=np.ones((c.height, c.width, 3))),
    )
    drawn, white = measuring._to_reference(blank)
    assert drawn.shape == white.shape == (1, 256, 256, 3)
    np.testing.assert_allclose(white[0, :, :120], [[[1.0, 0.0, 0.0]] * 120] * 256)
    np.testing.assert_allclose(white[0, :, 136:], 1.0)


def mistakes(root):
    one = root / "one"
    empty, unfinished, other = (root / name for name in ("empty", "undone", "other"))
    captions, text = root / "captions.txt", root / "no.txt"
    return [
        ([], "required: RUN"),
        ([root / "gone"], "does not exist"),
        ([text], "is a file"),
        ([empty], "holds no runs"),
        ([unfinished], "is not finished"),
        ([one, one / "a-red-ball"], "named twice"),
        ([other], "knows the toybox's captions alone"),
        ([one, f"--captions={root / 'gone'}"], "--captions="),
        ([one, f"--captions={captions}"], "'hamburger'"),
        ([one, f"--clip={empty}"], "config.json"),
        ([one, "--clip=toybox-sd"], "config.json"),
        ([one, "--clip=toybox-dpt"], "model_type"),
        ([one, f"--lpips={text}"], "not a .safetensors or .npz file"),
        ([one, f"--lpips={empty}"], "import lpips"),
        ([one, "--metric=fid"], "--metric"),
        ([root / "mine"], "scores.json was not written by sdsjax"),
        ([root / "alien"], "is not a list that sdsjax wrote"),
    ]


@pytest.fixture
def places(tmp_path):
    fixed_lists.write(tmp_path / "one", fixed_lists.PROMPTS, asset=False)
    fixed_lists.write(tmp_path / "other", ["a hamburger", "a red mug"], asset=False)
    for name in ("empty", "undone", "alien"):
        (tmp_path / name).mkdir()
    (tmp_path / "undone" / "run.json").write_text("{}")
    (tmp_path / "alien" / "prompts.json").write_text("[]")
    mine = fixed_lists.write(tmp_path / "mine", ["a red mug"], asset=False)
    (mine / "a-red-mug" / "scores.json").write_text("mine")
    (tmp_path / "captions.txt").write_text("a red ball\na blue hamburger\n")
    (tmp_path / "no.txt").write_text("x")
    return tmp_path


def one_line(command, words, said, root, capsys):
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert command([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_a_mistake_is_one_line_and_nothing_is_written(places, capsys):
    for words, said in mistakes(places):
        one_line(cli, words, said, places, capsys)


def test_lists_of_different_prompts_are_not_compared(places, capsys):
    one, other = places / "one", places / "other"
    command = compare_command.cli
    out = f"--out={places / 'page.html'}"
    said = "'a blue mug' and 1 more, which"
    one_line(command, [one, other, out], said, places, capsys)
    one_line(command, [one, places / "empty", out], "lists with lists", places, capsys)
    one_line(command, [one, places / "alien", out], "is not a list", places, capsys)
    # no prompts.json, and two runs of one prompt
    (one / "prompts.json").unlink()
    (one / "again").mkdir()
    for name in ("run.json", "config.json"):
        text = (one / "a-red-ball" / name).read_text()
        (one / "again" / name).write_text(text)
    said = "two runs of 'a red ball'"
    one_line(command, [one, other, out], said, places, capsys)
    assert BEGIN != END
