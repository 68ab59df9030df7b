"""The table of run.py: a section a measurement, figures with their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sdsjax.studies.report import markdown_table

TITLES = {
    "machine": "1. The machine",
    "default_job": "2. The default job, here and on the machine's CPU",
    "splatting": "3. The rasteriser, forward and backward",
    "networks": "4. Stable Diffusion 2.1-base's networks",
    "whole_step": "5. A whole step at 512x512",
    "fields": "6. The hash grid and a field",
    "training": "7. Training toybox-mv",
    "assets": "8. Many assets in one job",
}


def leaves(found: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every figure with the names above it, `a / b / c`."""
    for name, value in found.items():
        here = (*path, str(name).replace("_", " "))
        if isinstance(value, Mapping):
            yield from leaves(value, here)
        elif value is not None:
            yield " / ".join(here), spelt(value)


def spelt(value) -> str:
    """A figure to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(rows: Mapping[str, Mapping]) -> str:
    """The sections of all measurements, in order; what is missing is said."""
    machine = rows.get("machine", {}).get("found", {})
    lines = [
        f"{machine.get('date', 'no date')}, {machine.get('device', 'unknown device')}, "
        f"jax {machine.get('versions', {}).get('jax', 'unknown')}."
    ]
    for name, title in TITLES.items():
        lines += ["", f"## {title}", ""]
        if name not in rows:
            lines.append("Not measured.")
            continue
        row = rows[name]
        lines += markdown_table(("figure", "value"), leaves(row["found"]))
        lines += ["", f"{row['wall_seconds']:.0f} s in all."]
    return "\n".join(lines) + "\n"
