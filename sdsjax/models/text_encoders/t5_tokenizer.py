"""T5's tokenizer, from tokenizer.json or SentencePiece's spiece.model.

Notation: ids `[b n]` int32 and mask `[b n]` bool, True at the pieces of the text and at
the end token, which comes last; then padding to n. IF uses n = 77.

spiece.model is a protocol buffer: pieces with log-probabilities and a table of
replacements that normalises the text (Kudo and Richardson 2018, arXiv 1808.06226). It
is read here and handed to the `tokenizers` library, which finds the likeliest split
(Kudo 2018, arXiv 1804.10959); the sentencepiece package is not needed.
"""

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.weights import read_json
from sdsjax.models.text_encoders.prompt_length import beginning_that_fits

PAD, END, UNKNOWN, SPACE = "<pad>", "</s>", "<unk>", "\u2581"
# numbers of the fields in SentencePiece's sentencepiece_model.proto
PIECES, TRAINER, NORMALIZER = 1, 2, 3
UNIGRAM = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class TokenIds(NamedTuple):
    """Token ids `[b n]` int32, and their mask `[b n]` bool, False at padding."""

    ids: np.ndarray
    mask: np.ndarray


class T5Tokenizer:
    """Called on a list of texts, gives `TokenIds`; see `from_folder`.

    Longer texts lose their tail, with a warning that quotes it. `length` is n;
    `vocab_size` bounds the ids.
    """

    def __init__(self, backend: tokenizers.Tokenizer, length: int):
        """backend: adds the end token itself. ValueError if a special token lacks."""
        for token in (PAD, END):
            if backend.token_to_id(token) is None:
                raise ValueError(f"{token!r} is not in the vocabulary")
        backend.no_padding()
        backend.no_truncation()
        self._backend, self.length = backend, length
        self.vocab_size = backend.get_vocab_size()
        self.pad_id = backend.token_to_id(PAD)
        self.end_id = backend.token_to_id(END)

    def __call__(self, texts: list[str]) -> TokenIds:
        if isinstance(texts, str):
            raise TypeError("texts is a list of strings; got one string")
        ids = np.full((len(texts), self.length), self.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, seen, text in zip(ids, mask, texts, strict=True):
            encoding = self._backend.encode(text)
            found = encoding.ids
            if len(found) > self.length:
                cut = encoding.offsets[self.length - 1][0]
                warnings.warn(
                    f"the prompt beginning with {text[:24]!r} has {len(found)} "
                    f"tokens, the text encoder takes {self.length}; dropped: "
                    f"{text[cut:]!r}",
                    stacklevel=2,
                )
                found = [*found[: self.length - 1], self.end_id]
            row[: len(found)] = found
            seen[: len(found)] = True
        return TokenIds(ids, mask)

    def shorten(self, text: str, endings: list[str]) -> str:
        """Cuts a text between words where it leaves an ending no room.

        A warning quotes what was dropped.
        """
        return beginning_that_fits(self._backend, text, endings, self.length)

    @classmethod
    def from_folder(cls, folder, length: int = 77) -> "T5Tokenizer":
        """Read tokenizer.json, or else spiece.model, of `folder`.

        Raises LoaderError for a missing or malformed file.
        """
        folder = Path(folder)
        whole, pieces = folder / "tokenizer.json", folder / "spiece.model"
        path = whole if whole.is_file() else pieces
        try:
            if path is whole:
                backend = tokenizers.Tokenizer.from_file(str(whole))
            else:
                extra = _extra_ids(folder / "tokenizer_config.json")
                backend = from_sentencepiece(pieces.read_bytes(), extra)
            return cls(backend, length)
        except FileNotFoundError:
            raise LoaderError(
                f"{folder}: neither tokenizer.json nor spiece.model; a T5 tokenizer's "
                "folder has one of them"
            ) from None
        except LoaderError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            reason = " ".join(str(error).split())
            raise LoaderError(f"{path}: not a T5 tokenizer: {reason}") from None


def _extra_ids(path: Path) -> int:
    """How many sentinels follow the pieces: 100 unless the config says otherwise."""
    count = read_json(path).get("extra_ids", 100) if path.is_file() else 100
    if type(count) is not int or not 0 <= count <= 1000:
        raise LoaderError(f"{path}: extra_ids = {count!r}; expected 0..1000")
    return count


def from_sentencepiece(model: bytes, extra_ids: int = 100) -> tokenizers.Tokenizer:
    """A backend that splits as SentencePiece does, from the bytes of spiece.model.

    extra_ids: sentinels `<extra_id_0>`, ... counted down after the pieces. Raises
    ValueError for a model of another kind or with settings that T5's does not have.
    """
    fields = list(_fields(model))
    pieces = [_piece(value) for number, value in fields if number == PIECES]
    trainer = dict(_fields(_last(fields, TRAINER)))
    normalizer = dict(_fields(_last(fields, NORMALIZER)))
    kind, byte_fallback = trainer.get(3, UNIGRAM), trainer.get(35, 0)
    if kind != UNIGRAM or byte_fallback:
        raise ValueError("expected a unigram model without byte fallback")
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    if not all(normalizer.get(field, 1) for field in (3, 4, 5)):
        raise ValueError("expected the default handling of white space")
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids))]
    vocab = [*pieces, *sentinels]
    names = [text for text, _ in vocab]
    if len(set(names)) != len(names) or UNKNOWN not in names:
        raise ValueError(f"expected distinct pieces, {UNKNOWN!r} among them")
    backend = tokenizers.Tokenizer(Unigram(vocab, names.index(UNKNOWN)))
    tidy: list[Any] = [
        normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        normalizers.Replace(tokenizers.Regex("^ | $"), ""),
    ]
    if table := normalizer.get(2, b""):
        tidy.insert(0, normalizers.Precompiled(table))
    backend.normalizer = normalizers.Sequence(tidy)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", True)
    special = {PAD, END, UNKNOWN, *names[len(pieces) :]}
    backend.add_special_tokens([name for name in names if name in special])
    end = names.index(END) if END in names else -1
    if end >= 0:
        backend.post_processor = processors.TemplateProcessing(
            single=["$A", END], special_tokens=[(END, end)]
        )
    return backend


def _last(fields, number) -> bytes:
    found = [value for key, value in fields if key == number]
    if not found or not isinstance(found[-1], bytes):
        raise ValueError("not a SentencePiece model")
    return found[-1]


def _piece(message: bytes) -> tuple[str, float]:
    """(text, log-probability) of a SentencePiece message."""
    fields = dict(_fields(message))
    return fields[1].decode(), fields.get(2, 0.0)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protocol buffer message; ValueError if it is
    cut off."""
    at = 0
    while at < len(raw):
        try:
            tag, at = _varint(raw, at)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                value, at = _varint(raw, at)
            elif wire == BYTES:
                size, at = _varint(raw, at)
                value, at = raw[at : at + size], at + size
            elif wire in (FIXED32, FIXED64):
                code, size = ("<f", 4) if wire == FIXED32 else ("<d", 8)
                (value,), at = struct.unpack_from(code, raw, at), at + size
            else:
                raise ValueError
        except (IndexError, struct.error, ValueError):
            raise ValueError("not a readable protocol buffer") from None
        if at > len(raw):
            raise ValueError("not a readable protocol buffer: it is cut off")
        yield number, value
