"""Ceilings that need no fit: shipped, cached, and never fitted unasked."""

import json

import pytest

from sdsjax.cli.checks import resolve
from sdsjax.representations.gaussians import GaussianParams
from sdsjax.training.ceilings import known as known_ceilings
from sdsjax.training.ceilings.known import (
    ceiling_of_run,
    keep_ceiling,
    known_ceiling,
    setting_of,
)
from sdsjax.training.config import from_json, to_json

PARAMS = GaussianParams(*[None] * len(GaussianParams._fields))
SCORES = {"iou": 0.9, "psnr": 20.0, "janus_rate": None, "views": {"iou": [0.9]}}
ELSEWHERE = {"representation.count": 1999}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(known_ceilings, "user_cache_directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def fitted(monkeypatch):
    """The prompts that were fitted, instead of a minute's fit each."""
    prompts = []

    def ceiling(prompt, representation, **settings):
        prompts.append(prompt)
        return SCORES

    monkeypatch.setattr(known_ceilings, "ceiling", ceiling)
    return prompts


def test_the_default_job_and_the_prompts_of_toybox_quality_are_shipped(fitted):
    shipped = known_ceiling(setting_of(resolve("ssd")))
    assert shipped["iou"] > 0.98
    for prompt in ("a red mug", "a red ball on a blue cube"):
        config = resolve("sds", {"prompt": prompt, "scoring.ceiling": True})
        assert ceiling_of_run(config, None, PARAMS)["psnr"] > 20
    assert fitted == []


def test_another_representation_is_another_ceiling():
    assert known_ceiling(setting_of(resolve("ssd", ELSEWHERE))) is None
    assert known_ceiling(setting_of(resolve("ssd", {"prompt": "a pink cat"}))) is None


def test_it_is_fitted_only_when_asked_for_and_only_once(fitted):
    assert ceiling_of_run(resolve("ssd", ELSEWHERE), None, PARAMS) is None
    assert fitted == []
    asked = resolve("ssd", {**ELSEWHERE, "scoring.ceiling": True})
    assert ceiling_of_run(asked, None, PARAMS) == SCORES
    assert ceiling_of_run(asked, None, PARAMS) == SCORES
    # known now, also to a run that does not ask
    assert ceiling_of_run(resolve("ssd", ELSEWHERE), None, PARAMS) == SCORES
    assert fitted == ["a red snowman"]


def test_what_has_no_ceiling_is_not_fitted(fitted):
    asked = {**ELSEWHERE, "scoring.ceiling": True}
    plain = to_json(resolve("ssd", asked))
    hamburger = from_json({**plain, "prompt": "a hamburger"})
    assert ceiling_of_run(hamburger, None, PARAMS) is None
    assert ceiling_of_run(resolve("ssd", asked), None, object()) is None
    unscored = resolve("ssd", {**asked, "scoring.truth": False})
    assert ceiling_of_run(unscored, None, PARAMS) is None
    assert fitted == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"scores": {}}', "NaN"],
)
def test_a_damaged_cache_is_no_cache(cache_folder, text):
    setting = setting_of(resolve("ssd", ELSEWHERE))
    keep_ceiling(setting, SCORES)
    (path,) = (cache_folder / "sdsjax" / "ceilings").iterdir()
    assert known_ceiling(setting) == SCORES
    path.write_text(text)
    assert known_ceiling(setting) is None
    path.write_text(json.dumps({"setting": setting, "scores": {"iou": float("inf")}}))
    assert known_ceiling(setting) is None


def test_a_cache_that_cannot_be_written_is_no_failure(cache_folder):
    (cache_folder / "sdsjax").write_text("a file")
    keep_ceiling(setting_of(resolve("ssd", ELSEWHERE)), SCORES)
    assert known_ceiling(setting_of(resolve("ssd", ELSEWHERE))) is None
