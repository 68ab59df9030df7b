"""What a list of prompts made, for programs: prompts.json beside index.html.

It names every prompt of the file in its order, with the group that the file put it in,
the run directory, and how it ended; also those of which there is no directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.exports.written_files import write_json
from sdsjax.files.atomic import read_object

LIST = "prompts.json"
MADE_BY = "sdsjax --prompts"  # what tells such a file from somebody else's


class ListedAsset(NamedTuple):
    """One prompt of a list, the group it stands in or "", and what became of it.

    folder: its run directory; status: "finished", "waiting", "diverged", ...; note: a
    line about it, or "".
    """

    prompt: str
    group: str
    folder: Path
    status: str
    note: str = ""


def write_list(root: Path, assets: Sequence[ListedAsset]) -> Path:
    """Writes prompts.json into `root`, whole or not at all. Raises OSError.

    Directories are written as names within `root`, so that all can be moved together.
    """
    rows = [
        asset._asdict() | {"folder": asset.folder.relative_to(root).as_posix()}
        for asset in assets
    ]
    return write_json(root / LIST, {"made_by": MADE_BY, "assets": rows})


def _content(root: Path) -> dict[str, Any] | None:
    # {} for a file that is not such an object, None without any
    path = root / LIST
    return read_object(path) if path.exists() else None


def may_be_replaced(root: Path) -> bool:
    """Tells whether prompts.json is ours, or is not there."""
    found = _content(root)
    return found is None or found.get("made_by") == MADE_BY


def read_list(root: Path) -> list[ListedAsset] | None:
    """Reads the assets that `root`/prompts.json names; None without such a file.

    The status is what the directories say now. Raises ValueError, in one line, for a
    file that names no assets, or directories outside of `root`.
    """
    found = _content(root)
    if found is None:
        return None
    rows = found.get("assets")
    assets = [_asset(root, row) for row in rows] if isinstance(rows, list) else []
    assets = [asset for asset in assets if asset is not None]
    whole = isinstance(rows, list) and len(assets) == len(rows) > 0
    if found.get("made_by") != MADE_BY or not whole:
        raise ValueError(
            f"{root / LIST} is not a list that sdsjax wrote: move it away, or run "
            "--prompts again, which skips what is finished"
        )
    return assets


def _asset(root: Path, row: Any) -> ListedAsset | None:
    """Reads a row; None for what is none. Raises ValueError for one outside `root`."""
    if not isinstance(row, dict):
        return None
    texts = [row.get(name, "") for name in ListedAsset._fields]
    prompt, group, name, status, note = (
        text if isinstance(text, str) else "" for text in texts
    )
    if not prompt or not name:
        return None
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{root / LIST} names {name!r}, not a directory beside it")
    done = (folder / "finished.json").is_file()
    if done or status == "finished":
        status = "finished" if done else "missing"
    return ListedAsset(prompt, group, folder, status, note)
