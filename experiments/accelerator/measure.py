"""One measurement in this process: `python measure.py NAME small|full`.

NAME is the module beside this one that has it.
Prints what is known so far as a JSON line whenever something is added, so that nothing
is lost where time or memory runs out; the last line counts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

# the room a renderer asks for by itself is measured, not what JAX takes beforehand
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def main() -> int:
    """Measures; returns the exit status (1: the measurement failed)."""
    name, size = sys.argv[1:3]
    found: dict = {}

    def say(**more) -> None:
        found.update(more)
        print(json.dumps(found), flush=True)

    try:
        importlib.import_module(name).measure(size, say)
    except Exception as error:
        traceback.print_exc()
        say(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
