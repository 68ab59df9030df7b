"""CLIP's tokenizer, from vocab.json and merges.txt, or tokenizer.json, of a folder.

Notation: ids `[b n]` int32, n = model_max_length (77 in Stable Diffusion): start token,
byte-pair tokens of the text, end token, then padding. SD 1 pads with the end token, SD
2 with "!" (id 0); the folder's special_tokens_map.json says which.

Text is NFC-normalised, its white space collapsed, lower-cased, split by CLIP's pattern
and encoded byte by byte; the last piece of a word ends in `</w>` (Sennrich et al. 2016,
arXiv 1508.07909; Radford et al. 2021, arXiv 2103.00020).
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from sdsjax.models.loading.errors import LoaderError, absence
from sdsjax.models.text_encoders.prompt_length import beginning_that_fits

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """Called on a list of texts, gives ids `[b n]` int32; see `from_folder`.

    Longer texts lose their tail, with a warning that quotes it. `length` is n;
    `vocab_size` bounds the ids; `start_id`, `end_id` and `pad_id` are those of the
    special tokens.
    """

    def __init__(self, vocab, merges, length, special=None):
        """vocab: token -> id; merges: pairs of pieces, best first; special: role ->
        token (a string, or a dict with `content` and matching flags)."""
        chosen = {"bos_token": START, "pad_token": END, **(special or {})}
        chosen = {role: chosen.get(role) or END for role in ROLES}
        tokens = {role: _added_token(token) for role, token in chosen.items()}
        for role, token in tokens.items():
            if token.content not in vocab:
                raise ValueError(f"{role} {token.content!r} is not in the vocabulary")
        ids = {role: vocab[token.content] for role, token in tokens.items()}
        self.length = length
        self.vocab_size = 1 + max(vocab.values())
        self.start_id, self.end_id = ids["bos_token"], ids["eos_token"]
        self.pad_id = ids["pad_token"]
        self._backend = _backend(vocab, merges, tokens, ids)

    def __call__(self, texts: list[str]) -> np.ndarray:
        if isinstance(texts, str):
            raise TypeError("texts is a list of strings; got one string")
        out = np.full((len(texts), self.length), self.pad_id, np.int32)
        for row, text in zip(out, texts, strict=True):
            encoding = self._backend.encode(text)
            ids = encoding.ids
            if len(ids) > self.length:
                cut = encoding.offsets[self.length - 1][0]
                warnings.warn(
                    f"the prompt beginning with {text[:24]!r} has {len(ids)} "
                    f"tokens, the text encoder takes {self.length}; dropped: "
                    f"{text[cut:]!r}",
                    stacklevel=2,
                )
                ids = [*ids[: self.length - 1], self.end_id]
            row[: len(ids)] = ids
        return out

    def shorten(self, text: str, endings: list[str]) -> str:
        """Cuts a text between words where it leaves an ending no room.

        A warning quotes what was dropped.
        """
        return beginning_that_fits(self._backend, text, endings, self.length)

    def pieces(self, text: str) -> list[str]:
        """The byte-pair tokens of a text, without start, end and padding."""
        return self._backend.encode(text, add_special_tokens=False).tokens

    @classmethod
    def from_folder(
        cls, folder, length: int | None = None, pad: str | None = None
    ) -> "Tokenizer":
        """Read the tokenizer of `folder`.

        vocab.json and merges.txt, or tokenizer.json where these are absent, and the two
        optional json files. length: the encoder's number of positions, an upper bound
        on n. pad: the pad token, in the place of the folder's. Raises LoaderError for a
        missing or malformed file.
        """
        folder = Path(folder)
        config = _read_json(folder / "tokenizer_config.json", optional=True)
        special = {role: config[role] for role in ROLES if config.get(role)}
        # newer files list their added tokens in the config and repeat nothing else
        if "added_tokens_decoder" not in config:
            mapped = _read_json(folder / "special_tokens_map.json", optional=True)
            special |= {role: mapped[role] for role in ROLES if mapped.get(role)}
        if pad is not None:
            special["pad_token"] = pad
        found = [config.get("model_max_length"), length]
        limits = [int(n) for n in found if n is not None and n < 1e6]
        if not limits:
            where = folder / "tokenizer_config.json"
            raise LoaderError(f"{where}: model_max_length is missing; expected e.g. 77")
        whole = folder / "tokenizer.json"
        if whole.is_file() and not (folder / "vocab.json").is_file():
            vocab, merges = _read_whole(whole)
        else:
            vocab = _read_json(folder / "vocab.json")
            merges = _read_merges(folder / "merges.txt")
        try:
            return cls(vocab, merges, min(limits), special)
        except Exception as error:  # tokenizers raises bare Exception
            raise LoaderError(f"{folder}: not a CLIP tokenizer: {error}") from error


def _added_token(token) -> tokenizers.AddedToken:
    if isinstance(token, str):
        return tokenizers.AddedToken(token, special=True, normalized=False)
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    flags = {name: token[name] for name in flags if name in token}
    return tokenizers.AddedToken(token["content"], special=True, **flags)


def _backend(vocab, merges, tokens, ids) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(
        BPE(
            vocab=vocab,
            merges=[tuple(pair) for pair in merges],
            continuing_subword_prefix="",
            end_of_word_suffix=SUFFIX,
            fuse_unk=False,
            unk_token=tokens["unk_token"].content,
        )
    )
    collapse = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), collapse, normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(
        tokenizers.Regex(PATTERN), behavior="removed", invert=True
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # the pad token too: where it is "!", a literal "!" must become id 0, as in training
    backend.add_special_tokens(list(tokens.values()))
    backend.post_processor = processors.RobertaProcessing(
        (tokens["eos_token"].content, ids["eos_token"]),
        (tokens["bos_token"].content, ids["bos_token"]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return backend


def _read_json(path, optional=False) -> dict:
    if optional and not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoaderError(
            f"{path}: {absence(path)}; a tokenizer folder has it"
        ) from None
    except (OSError, ValueError) as error:
        raise LoaderError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise LoaderError(f"{path}: a JSON object was expected")
    return found


def _read_merges(path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise LoaderError(
            f"{path}: {absence(path)}; a tokenizer folder has it"
        ) from None
    except (OSError, ValueError) as error:
        raise LoaderError(f"{path}: not readable as UTF-8: {error}") from None
    merges = [
        tuple(line.split(" "))
        for line in lines
        if line.strip() and not line.startswith("#version")
    ]
    for pair in merges:
        if len(pair) != 2:
            raise LoaderError(f"{path}: two pieces a line were expected, got {pair}")
    return merges


def _read_whole(path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocab, merges) of a tokenizer.json, as transformers 5 writes it alone."""
    content = _read_json(path)
    try:
        model = content["model"]
        if model["type"] != "BPE":
            raise LoaderError(f"{path}: model {model['type']!r}; CLIP's is BPE")
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        vocab = {**model["vocab"], **added}
        # one text a pair in older files, a list in newer ones
        pairs = [p.split(" ") if isinstance(p, str) else p for p in model["merges"]]
        merges = [(first, second) for first, second in pairs]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LoaderError(f"{path}: not a CLIP tokenizer: {error!r}") from None
    return vocab, merges


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of the bytes, in GPT-2's order ("!" first)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len([b for b in range(256) if b not in printable])
    return [chr(c) for c in printable] + [chr(256 + i) for i in range(others)]


def train_word_tokenizer(words: Iterable[str]) -> tuple[dict[str, int], list]:
    """Returns (vocab, merges) of the smallest tokenizer with ONE token for every word.

    words: lower-case runs of ASCII letters, or punctuation. Byte-pair training until
    nothing is left to merge; ids are CLIP's 512 byte tokens, the merges, start and end.
    """
    words = sorted({w for w in words if len(w) > 1})
    for word in words:
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise ValueError(f"{word!r}: a word is a run of lower-case ASCII letters")
    split = {word: [*word[:-1], word[-1] + SUFFIX] for word in words}
    merges = []
    while pairs := Counter(p for pieces in split.values() for p in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(pieces, best) for word, pieces in split.items()}
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(c + SUFFIX for c in alphabet)]
    tokens += dict.fromkeys(a + b for a, b in merges)
    vocab = {token: i for i, token in enumerate([*tokens, START, END])}
    check = Tokenizer(vocab, merges, 8)
    for word in words:
        if check.pieces(word) != [word + SUFFIX]:
            raise ValueError(f"{word!r} did not become one token: {check.pieces(word)}")
    return vocab, merges


def _merge(pieces, pair):
    out, i = [], 0
    while i < len(pieces):
        joined = tuple(pieces[i : i + 2]) == pair
        out.append("".join(pair) if joined else pieces[i])
        i += 2 if joined else 1
    return out


def write_tokenizer(folder, vocab, merges, length: int, pad: str = END) -> None:
    """Write the four files of a tokenizer folder, readable by transformers too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
    }
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    _write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    _write(folder / "merges.txt", "\n".join(lines))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))


def _write(path, text):
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
