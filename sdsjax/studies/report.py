"""The parts of a report: Markdown tables, figures and sheets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def plus_minus(value: float, error: float) -> str:
    """A value to four digits and its error to one, as `0.1234 +- 0.005`."""
    return f"{float(value):.4g} +- {float(error):.1g}"


def table_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def markdown_table(
    heads: Sequence[str], rows: Iterable[Iterable[str]], columns: int | None = None
) -> list[str]:
    """The lines of a Markdown table; rows may have fewer cells than there are heads.

    columns: how many the ruler has, by default one for each head.
    """
    ruler = "|---" * (columns or len(heads)) + "|"
    return [table_row(heads), ruler, *map(table_row, rows)]


@contextmanager
def saved_figure(path: Path, *, dpi: int = 80, **options) -> Iterator:
    """Yields an empty matplotlib figure that is written to `path` at the end.

    options: as of `plt.figure` (figsize, ...); nothing is shown on a screen.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained", **options)
    try:
        yield figure
        figure.savefig(path, dpi=dpi)
    finally:
        plt.close(figure)


def save_picture(rgb: np.ndarray, path: Path) -> None:
    """Writes rgb [h w 3] in [0, 1], clipped, as PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)).save(path)


def save_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], path: Path
) -> None:
    """Writes strips [h w 3] as PNG: a row (label, strips) each, a column a title."""
    size = 3.3 * len(titles) + 1, 0.88 * len(rows) + 0.3
    with saved_figure(path, dpi=100, figsize=size) as figure:
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for axes, (label, strips) in zip(grid, rows):
            for axis, strip in zip(axes, strips):
                axis.imshow(np.clip(strip, 0, 1))
                axis.set(xticks=[], yticks=[])
            axes[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
        for axis, title in zip(grid[0], titles):
            axis.set_title(title, fontsize=8)


def save_sheet_of_files(
    cases: Sequence[tuple[str, Sequence[Path]]],
    titles: Sequence[str],
    path: Path,
    first: Callable[[], Sequence[tuple[str, Sequence[np.ndarray]]]] = list,
) -> None:
    """Writes the sheet of the rows that `first` makes and of cases (label, files).

    Cases without all their files are left out. Sheets are kept in the repository and
    strips are not: a sheet that exists stays as it is where any strip is missing.
    """
    from PIL import Image

    there = [case for case in cases if all(file.exists() for file in case[1])]
    if not there or (path.exists() and len(there) < len(cases)):
        return
    rows = [
        (label, [np.asarray(Image.open(file)) / 255 for file in files])
        for label, files in there
    ]
    save_sheet([*first(), *rows], titles, path)
