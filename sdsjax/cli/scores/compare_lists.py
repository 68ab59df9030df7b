"""Compares lists of the same prompts, prompt by prompt, on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdsjax.cli.scores.lists import read_assets
from sdsjax.exports.scores.columns import Column, config_of, read_shown
from sdsjax.exports.scores.list_page import write_list_page
from sdsjax.training.config import ConfigError
from sdsjax.training.prompts.list_file import ListedAsset


def compare_lists(folders: Sequence[Path], out: Path) -> Path:
    """Writes the page that compares lists. Raises ConfigError, OSError.

    Rows are in the order and groups of the first list.
    """
    lists = [read_assets(folder) for folder in folders]
    for folder, assets in zip(folders[1:], lists[1:]):
        _check_same(folders[0], lists[0], folder, assets)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    columns = list(map(_column, names, lists))
    groups: dict[str, list[str]] = {}
    for asset in lists[0]:
        groups.setdefault(asset.group, []).append(asset.prompt)
    return write_list_page(out, groups, columns)


def _check_same(
    first: Path, own: Sequence[ListedAsset], other: Path, theirs: Sequence[ListedAsset]
) -> None:
    """Raises ConfigError for two lists of different prompts."""
    ours, others = ({asset.prompt for asset in some} for some in (own, theirs))
    pairs = (first, other, ours - others), (other, first, others - ours)
    for here, there, lacking in pairs:
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise ConfigError(
                f"{here} has {min(lacking)!r}{more}, which {there} has not: compare "
                "lists of the same --prompts file"
            )


def _column(name: str, assets: Sequence[ListedAsset]) -> Column:
    shown = {a.prompt: read_shown(a.folder, a.status, a.note) for a in assets}
    labels = (config_of(asset.folder) for asset in assets)
    return Column(name, next(filter(None, labels), ""), shown)
