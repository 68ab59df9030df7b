"""How much of a prompt a text encoder reads, where words are to be appended to it."""

import warnings

import tokenizers


def beginning_that_fits(
    backend: tokenizers.Tokenizer, text: str, endings: list[str], length: int
) -> str:
    """The longest beginning of a text that fits with every ending.

    Cut between words (inside the word where there is only one). backend: adds its
    special tokens itself; length: tokens the encoder reads, special ones included.
    Warns once, quoting what was dropped: a prompt that is cut at its tail instead would
    lose the endings, and with them what tells one view from another.
    """

    def fits(start: str) -> bool:
        return all(
            len(backend.encode(start + ending).ids) <= length for ending in endings
        )

    start = text
    while start and not fits(start):
        shorter = start.rpartition(" ")[0].rstrip(" ,;:-")
        start = shorter or start[:-1]
    if start != text:
        longest = max(endings, key=len, default="")
        warnings.warn(
            f"the prompt is longer than the {length} tokens that the text encoder "
            f"reads with {longest.strip(' ,')!r}; dropped: {text[len(start) :]!r}",
            stacklevel=3,
        )
    return start
