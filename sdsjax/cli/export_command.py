"""The command line of `python -m sdsjax.export`: a finished run's files, again.

    python -m sdsjax.export runs/a --formats=ply,glb,spz,mesh --mesh_resolution=256

Nothing is trained and nothing of the run is changed: the files go into RUN/exports, or
where --out says. A mistake is one line and exit status 2, before anything is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from sdsjax.cli.ranges import RANGES
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import ConfigError, one_of

TEXTURE_SIZES = (64, 8192)


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose mistakes are one line, with no usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError with the message as it is."""
        raise ConfigError(f"{message} (--help lists the flags)")


def _parser() -> argparse.ArgumentParser:
    from sdsjax.exports.formats import DEFAULT, FORMATS

    parser = Parser(
        prog="python -m sdsjax.export",
        description="Writes the asset of a finished run in other formats and sizes.",
    )
    names = ", ".join(f"{name} ({kind.file})" for name, kind in FORMATS.items())
    parser.add_argument("run", metavar="RUN", help="the directory of a finished run")
    parser.add_argument(
        "--formats",
        help=f"comma-separated: {names}; default {','.join(DEFAULT)}, of a field mesh",
    )
    parser.add_argument(
        "--mesh_resolution",
        type=int,
        help="nodes of the grid's side; default the run's",
    )
    parser.add_argument(
        "--texture_size", type=int, default=1024, help="px; default 1024"
    )
    parser.add_argument("--out", help="folder to write into; default RUN/exports")
    return parser


def _formats(text: str | None, splats: bool) -> tuple[str, ...]:
    """Reads --formats. Raises ConfigError for a name that the asset has no file of."""
    from sdsjax.exports.formats import DEFAULT, FORMATS, MESHES

    known = FORMATS if splats else MESHES
    if text is None:
        return tuple(name for name in DEFAULT if name in known)
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    for name in names or ("",):
        if name in FORMATS and name not in known:
            raise ConfigError(
                f"--formats: the run trained a radiance field, which has no splats for "
                f"{name!r}: choose {', '.join(known)}"
            )
        if name not in known:
            raise one_of("--formats", name, known)
    return names


def _check_size(flag: str, value: int, limits: tuple) -> None:
    low, high = limits
    if not low <= value <= high:
        raise ConfigError(f"{flag} must be in {low}..{high}, not {value}")


def export(argv: list[str]) -> dict[str, Path]:
    """Runs the command; returns format -> file. Raises what is one line for a user."""
    asked = _parser().parse_args(argv)
    grid = RANGES["exports.mesh_resolution"]
    if asked.mesh_resolution is not None:
        _check_size("--mesh_resolution", asked.mesh_resolution, grid)
    _check_size("--texture_size", asked.texture_size, TEXTURE_SIZES)
    _formats(asked.formats, splats=True)  # a wrong name before anything is read
    from sdsjax.exports.formats import write_formats
    from sdsjax.representations.gaussians import Gaussians
    from sdsjax.training.build.finished_run import read_finished_run

    run = read_finished_run(asked.run)
    formats = _formats(asked.formats, isinstance(run.asset, Gaussians))
    out = Path(asked.out) if asked.out else Path(asked.run) / "exports"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: choose a folder")
    return write_formats(
        out,
        run.asset,
        formats,
        mesh_resolution=asked.mesh_resolution
        or int((run.config.get("exports") or {}).get("mesh_resolution", 0) or 96),
        texture_size=asked.texture_size,
        bound=float(run.config.representation.get("bound", 1.0)),
    )


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    return run_command(lambda words: say_written(export(words).values()), argv)


def say_written(paths: Iterable[Path]) -> None:
    """Prints each file that a command has written, with its size."""
    for path in paths:
        print(f"{path}  {path.stat().st_size:,} bytes")


def run_command(
    command: Callable[[list[str]], None],
    argv: list[str] | None,
    interrupted: int = ExitStatus.INTERRUPTED,
) -> int:
    """Runs a command beside the main one; returns the exit status.

    argv: None for the process's own; interrupted: the status after Ctrl-C. A mistake is
    one line on stderr.
    """
    try:
        command(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return interrupted
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        from sdsjax.cli.devices import report

        return report(error)
    return ExitStatus.DONE
