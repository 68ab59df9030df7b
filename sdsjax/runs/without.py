"""Imports a library as if one that it imports on the way were not there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Has `import name` fail as for a library that is not installed, while this lasts.

    Where it is imported already, which costs nothing more, nothing is changed.
    """
    if name in sys.modules:
        yield
        return
    # How Python writes down that a module is not there (language reference, 5.3.1).
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
