"""CLIP's tokenizer: transformers' answers (goldens), padding, truncation, training."""

import json
from pathlib import Path

import fixed_weights as fixed
import numpy as np
import pytest

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.clip_tokenizer import (
    END,
    Tokenizer,
    byte_alphabet,
    train_word_tokenizer,
    write_tokenizer,
)

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "models.npz"


@pytest.fixture(scope="module")
def trained():
    return train_word_tokenizer(fixed.WORDS)


@pytest.mark.filterwarnings("ignore:the prompt beginning")
@pytest.mark.parametrize(("name", "pad"), [("tokens_sd1", END), ("tokens_sd2", "!")])
def test_nasty_prompts_as_transformers(tmp_path, trained, name, pad):
    write_tokenizer(tmp_path, *trained, 24, pad)
    found = Tokenizer.from_folder(tmp_path)(fixed.PROMPTS)
    with np.load(GOLDENS) as golden:
        np.testing.assert_array_equal(found, golden[name])
    assert found.dtype == np.int32


def test_the_pad_token_is_special(trained):
    sd1 = Tokenizer(*trained, 8)(["a!"])[0]
    sd2 = Tokenizer(*trained, 8, {"pad_token": "!"})(["a!"])[0]
    vocab = trained[0]
    start, end, a = vocab["<|startoftext|>"], vocab[END], vocab["a</w>"]
    assert sd1.tolist() == [start, a, vocab["!</w>"], end, end, end, end, end]
    assert sd2.tolist() == [start, a, 0, end, 0, 0, 0, 0]


def test_special_tokens_as_the_hub_writes_them(tmp_path, trained):
    """Flags in special_tokens_map.json, and it wins over tokenizer_config.json."""
    write_tokenizer(tmp_path, *trained, 8)
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    end = {"content": END, **flags}
    special = {"eos_token": end, "unk_token": end, "pad_token": "!"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.pad_id == 0
    ids = tokenizer(["<|EndOfText|>"])[0]  # normalized: matched after lower-casing
    assert ids[1] == ids[2] == tokenizer.end_id


def test_long_prompts_lose_their_tail_with_a_warning(trained):
    tokenizer = Tokenizer(*trained, 6)
    with pytest.warns(UserWarning, match=r"has 8 tokens.* 6; dropped: 'ball a'"):
        (ids,) = tokenizer(["a red cube on ball a"])
    assert ids[0] == tokenizer.start_id
    assert ids[-1] == tokenizer.end_id
    assert tokenizer.pieces("a red cube on") == [
        "a</w>",
        "red</w>",
        "cube</w>",
        "on</w>",
    ]


def test_one_string_is_not_a_list(trained):
    with pytest.raises(TypeError, match="list of strings"):
        Tokenizer(*trained, 6)("a red cube")


def test_every_word_is_one_token():
    words = ["an", "and", "banana", "nab", "ban", "bandana", "nana", "ant", "tan"]
    words += ["a", "rocket", "rock", "sock"]
    vocab, merges = train_word_tokenizer(words)
    tokenizer = Tokenizer(vocab, merges, 24)
    for word in words:
        assert tokenizer.pieces(word) == [word + "</w>"]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert list(vocab)[:256] == byte_alphabet()
    assert vocab["!"] == 0
    assert vocab[END] == len(vocab) - 1
    assert train_word_tokenizer(reversed(words)) == (vocab, merges)


@pytest.mark.parametrize("word", ["Red", "left side", "caf\u00e9", "x-ray"])
def test_words_that_cannot_be_one_token(word):
    with pytest.raises(ValueError, match="lower-case ASCII letters"):
        train_word_tokenizer([word])


def test_files_round_trip(tmp_path, trained):
    write_tokenizer(tmp_path, *trained, 24)
    text = "a red cube on a banana, left side view"
    np.testing.assert_array_equal(
        Tokenizer.from_folder(tmp_path)([text]), Tokenizer(*trained, 24)([text])
    )
    assert Tokenizer.from_folder(tmp_path, length=12).length == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "vocab.json: missing"),
        ("merges.txt", None, "merges.txt: missing"),
        ("vocab.json", "{", "vocab.json: not readable as JSON"),
        ("vocab.json", "[]", "a JSON object was expected"),
        ("vocab.json", '{"a": 0}', "not a CLIP tokenizer"),
        ("merges.txt", "a b c\n", "two pieces a line"),
        ("merges.txt", "zz yy\n", "not a CLIP tokenizer"),
    ],
)
def test_malformed_files(tmp_path, trained, name, content, message):
    write_tokenizer(tmp_path, *trained, 24)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(LoaderError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_length_must_come_from_somewhere(tmp_path, trained):
    write_tokenizer(tmp_path, *trained, int(1e30))  # transformers' "no limit"
    assert Tokenizer.from_folder(tmp_path, length=7).length == 7
    with pytest.raises(LoaderError, match="model_max_length"):
        Tokenizer.from_folder(tmp_path)
