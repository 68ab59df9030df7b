"""What a mutant is, and the mutants that no test can see, with the reason."""

# fmt: off

from __future__ import annotations

from typing import NamedTuple

EQUIVALENT: dict[str, str] = {
    "near_pole": "between 88 and 89 degrees either up vector spans the same plane with "
    "the direction looked in, so that the camera is the same to rounding",
}


class Mutant(NamedTuple):
    """One small mistake in the package.

    file is relative to sdsjax/; tests are pytest's node ids; explanation, if any, says
    why no test can see it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    explanation: str


def of(file: str, test_file: str, *rows: tuple[str, str, str, str]) -> list[Mutant]:
    """Makes the mutants of one file."""
    made = []
    for name, old, new, tests in rows:
        nodes = (t if "::" in t else f"{test_file}::{t}" for t in tests.split(" & "))
        ids = tuple(f"tests/{node}" for node in nodes)
        made.append(Mutant(name, file, old, new, ids, EQUIVALENT.get(name, "")))
    return made
