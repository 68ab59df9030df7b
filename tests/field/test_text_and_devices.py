"""Situations of public bug reports: prompts, text encoders, devices (`-m field`)."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from sdsjax.cli import checks
from sdsjax.diffusion import prompts
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.toybox.world.captions import plain_caption
from sdsjax.training.config import ConfigError

pytestmark = pytest.mark.field
TOKENIZER = "sdsjax/weights/toybox-sd/tokenizer"


def toybox_tokenizer(folder):
    return Tokenizer.from_folder(folder / TOKENIZER)


@pytest.mark.parametrize("words", [1, 15, 21, 40])
def test_a_long_prompt_keeps_its_view_words(pytestconfig, words):
    """From 21 words on all views had the same text states."""
    tokenizer = toybox_tokenizer(pytestconfig.rootpath)
    endings = prompts.view_endings()
    prompt = " ".join(["a", *["small"] * (words - 1)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = tokenizer.shorten(prompt, endings)
        ids = tokenizer([fitted + ending for ending in endings])
    assert prompt.startswith(fitted)
    assert fitted
    assert len({tuple(row) for row in ids}) == 5
    assert (ids == tokenizer.end_id).any(axis=1).all()
    assert len(caught) == (fitted != prompt)
    if words == 15:
        assert fitted == prompt
    if words == 40:  # 24 positions: start, 17 words, "," and three view words, end
        assert len(fitted.split()) == 24 - 2 - 4
        assert "dropped: ' small small" in str(caught[0].message)


def test_one_endless_word_is_cut_inside(pytestconfig):
    tokenizer = toybox_tokenizer(pytestconfig.rootpath)
    with pytest.warns(UserWarning, match="longer than the 24 tokens"):
        fitted = tokenizer.shorten("x" * 99, [", front view"])
    assert len(tokenizer.pieces(fitted + ", front view")) == 22


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a “red” mug", "a red mug"),
        ("a \u2018red\u2019 mug…", "a red mug"),
        ("a\u00a0red\u2009mug", "a red mug"),
        ("a red mug — on a blue table!", "a red mug on a blue table"),
        ("a \uff52\uff45\uff44 mug", "a red mug"),
        ("a red mug ,front view", "a red mug, front view"),
        ("a red_mug", "a red mug"),
        ("“”", ""),
    ],
)
def test_typographic_characters_are_read_alike_by_check_and_encoder(text, plain):
    assert plain_caption(text) == plain
    if plain:
        resolved = checks.resolve("ssd", {"prompt": text, "prior.view_prompts": False})
        assert resolved.prompt == plain
    else:
        with pytest.raises(ConfigError):
            checks.resolve("ssd", {"prompt": text})


def test_prompts_for_other_priors_keep_their_marks(tmp_path):
    other = tmp_path / "model"
    other.mkdir()
    (other / "model_index.json").write_text("{}")
    said = {"prompt": "a “red” mug", "prior.folder": str(other)}
    assert checks.resolve("ssd", said).prompt == "a “red” mug"


def test_a_prompt_that_is_not_utf8_is_one_line():
    with pytest.raises(ConfigError, match="'prompt' is not UTF-8 text"):
        checks.resolve("ssd", {"prompt": "a \udcff mug", "prior.folder": "a/b"})
    with pytest.raises(ConfigError, match="not UTF-8"):
        checks.resolve("ssd", {"prompt": "a \udcff mug"})


@pytest.mark.parametrize("as_text", [True, False])
def test_a_folder_with_tokenizer_json_alone_gives_equal_ids(
    pytestconfig, tmp_path, as_text
):
    """What transformers 5 writes: tokenizer.json and tokenizer_config.json."""
    shipped = pytestconfig.rootpath / TOKENIZER
    vocab = json.loads((shipped / "vocab.json").read_text())
    lines = (shipped / "merges.txt").read_text().splitlines()[1:]
    special = ["<|startoftext|>", "<|endoftext|>"]
    whole = {
        "version": "1.0",
        "added_tokens": [
            {"id": vocab[t], "content": t, "special": True} for t in special
        ],
        "model": {
            "type": "BPE",
            "vocab": {t: i for t, i in vocab.items() if t not in special},
            "merges": lines if as_text else [line.split(" ") for line in lines],
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    config = json.loads((shipped / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    texts = ["a red mug, front view", "", "A 3D render of a blue HOUSE!"]
    expected = Tokenizer.from_folder(shipped)(texts)
    np.testing.assert_array_equal(Tokenizer.from_folder(tmp_path)(texts), expected)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "gpu", "no_such"])
def test_a_device_that_is_not_there_is_one_line(pytestconfig, tmp_path, platform):
    command = [sys.executable, "-m", "sdsjax.main", "--config=ssd", "--config.steps=3"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        env={**os.environ, "JAX_PLATFORMS": platform},
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if platform != "no_such" and done.returncode == 0:
        pytest.skip("this machine has such a device")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"sdsjax: error: JAX_PLATFORMS={platform} cannot be used")
    assert "JAX_PLATFORMS=cpu" in line
    assert not (tmp_path / "run").exists()
