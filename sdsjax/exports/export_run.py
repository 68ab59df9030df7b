"""What a run leaves behind: turntable, splats, mesh, figures, one report.

`export_all` writes everything it can and never fails a run: a piece that cannot be
written becomes a warning in the report. Cameras and colours as in `video` and `mesh`.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sdsjax.cameras import Camera
from sdsjax.exports import glb, ply, video
from sdsjax.exports import mesh as meshes
from sdsjax.exports.report import Run, report_html
from sdsjax.exports.viewer import viewer_html
from sdsjax.files.atomic import replacing, sha256, write_bytes
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs import provenance
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import CaptionError, parse_caption
from sdsjax.toybox.world.views import CANONICAL_ORBITS, DISTANCE
from sdsjax.types import Rendering

SIZE = 256
Render = Callable[[Camera], Rendering]


def write_image(path: Path, image: np.ndarray) -> Path:
    """Writes `[h w 3]` in [0, 1] (or uint8) as PNG, in one step."""
    from PIL import Image

    pixels = image if image.dtype == np.uint8 else video.to_bytes(image)
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", optimize=True)
    return path


def _plain(value: Any) -> Any:
    """Numbers, lists and dicts that JSON can hold; not-a-number becomes null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool, int, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if np.ndim(value) > 0:
        return _plain(np.asarray(value).tolist())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None


def write_json(path: Path, content: Mapping) -> Path:
    """Writes JSON that any reader accepts (no NaN), in one step."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    return write_bytes(path, text.encode("utf-8"))


def find_previews(workdir: Path) -> list[tuple[int, Path]]:
    """(step, picture) of the previews below `workdir`, by the number in their name."""
    found = []
    for path in (workdir / "previews").glob("*.png"):
        digits = re.findall(r"\d+", path.stem)
        if digits:
            found.append((int(digits[-1]), path))
    return sorted(found)


class _Export:
    """The files of one run as they come about, and what went wrong."""

    def __init__(self, workdir: Path, warnings: Sequence[str]):
        self.workdir = workdir
        self.paths: dict[str, Path] = {}
        self.warnings = list(warnings)
        self.seconds: dict[str, float] = {}

    def attempt(self, name: str, write: Callable[[], Any]) -> Any:
        """Runs one writer; what it raises becomes a warning."""
        start = time.perf_counter()
        try:
            return write()
        # An export may fail in any way; the run and its report must survive.
        except Exception as error:
            line = str(error).strip().splitlines() or [type(error).__name__]
            self.warnings.append(f"{name} was not written: {line[0]}")
            return None
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def keep(self, name: str, write: Callable[[], Path]) -> None:
        """`attempt`, remembering the path that was written."""
        path = self.attempt(name, write)
        if path is not None:
            self.paths[name] = path


def _jitted(render: Render) -> Render:
    """`render`, compiled once a size, without its aux."""
    return jax.jit(lambda camera: render(camera)._replace(aux=None))


def _views_picture(render: Render, prompt: str, size: int, with_truth: bool):
    """The canonical views side by side, the truth below them where there is one."""
    orbits = [(a, e, DISTANCE) for a, e in CANONICAL_ORBITS]
    drawn = video.render_frames(render, scoring.orbit_cameras(orbits, size))
    rows = [np.concatenate(list(drawn.rgb), axis=1)]
    if with_truth:
        spec, _ = parse_caption(prompt)
        truth = scoring.true_views(spec, orbits, size=size, supersample=2)
        rows.append(np.concatenate(list(truth.rgb), axis=1))
    return np.concatenate(rows, axis=0)


def _export_asset(
    export: _Export, params: Any, render: Render, config: Mapping, size: int
) -> meshes.Mesh | None:
    """turntable, splats.ply and mesh.glb; returns the mesh for the viewer."""
    wanted = config.get("exports") or {}
    frames = int(wanted.get("turntable_frames", 48))
    if frames > 0:

        def turntable() -> Path:
            cameras = video.turntable_cameras(frames, size)
            rows = video.panel_rows(video.render_frames(render, cameras))
            return video.write_video(export.workdir / "turntable.mp4", rows)

        export.keep("turntable", turntable)
    if isinstance(params, Gaussians):
        export.keep(
            "splats", lambda: ply.write_splats(export.workdir / "splats.ply", params)
        )
        extract = partial(meshes.extract_mesh, params)
    elif callable(params):
        # a contracted scene is cut off at the box in which it is not
        bound = float((config.get("representation") or {}).get("bound", 1.0))
        extract = partial(meshes.mesh_of_field, params, bound=bound)
    else:
        return None
    resolution = int(wanted.get("mesh_resolution", 64))
    if resolution <= 0:
        return None
    mesh = export.attempt("mesh", lambda: extract(resolution=resolution))
    if mesh is not None:
        export.keep(
            "mesh",
            lambda: glb.write_mesh(
                export.workdir / "mesh.glb", mesh, uv=bool(wanted.get("uv", False))
            ),
        )
    return mesh


def _export_others(
    export: _Export, render: Render, others: Sequence[tuple[Any, Render]], flat: bool
) -> None:
    """particles.png: a row a particle, the first one's on top (`flat`: one picture
    each); splats-1.ply, ... of the others."""
    orbits = [(a, e, DISTANCE) for a, e in CANONICAL_ORBITS][: 1 if flat else None]
    cameras = scoring.orbit_cameras(orbits, SIZE)

    def sheet() -> Path:
        drawn = [render, *(_jitted(other) for _, other in others)]
        rows = [
            np.concatenate(list(video.render_frames(one, cameras).rgb), axis=1)
            for one in drawn
        ]
        return write_image(export.workdir / "particles.png", np.concatenate(rows))

    export.keep("particles", sheet)
    for index, (params, _) in enumerate(others, 1):
        if isinstance(params, Gaussians):
            path = export.workdir / f"splats-{index}.ply"
            export.keep(f"splats_{index}", partial(ply.write_splats, path, params))


def _truth(export: _Export, render: Render, config: Mapping) -> dict | None:
    """The toybox's scores where the prompt is one of its captions."""
    prompt = config.get("prompt", "")
    if not (config.get("scoring") or {}).get("truth", True):
        return None
    try:
        parse_caption(prompt)
    except CaptionError:
        return None
    return export.attempt("truth", lambda: scoring.score(render, prompt))


def _final(history: Sequence[Mapping]) -> dict[str, float]:
    """The last value of each scalar of a history."""
    final: dict[str, float] = {}
    for row in history:
        final.update({k: v for k, v in row.items() if np.ndim(v) == 0})
    return final


def export_all(
    workdir: str | Path,
    params: Any,
    render: Render | None,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    *,
    others: Sequence[tuple[Any, Render]] = (),
    status: str = "finished",
    warnings: Sequence[str] = (),
    provenance_of_run: Mapping[str, Any] | None = None,
    ceiling: Mapping[str, Any] | None = None,
    size: int = SIZE,
) -> dict[str, Path]:
    """Writes every export of a run into `workdir`; returns name -> path.

    Args:
        params: Gaussians, or a radiance field as a function of points
            (mesh.mesh_of_field), or the `image` representation's parameters, or None.
        render: camera -> Rendering on a white background, jit-able (for the `image`
            representation: the picture, whatever the camera); None: nothing is drawn,
            as after an abort with no usable parameters.
        config: the resolved config as a nested dict.
        history: rows of scalars with `step`.
        others: (params, render) of a run's other particles.
        status: "finished", "aborted", ...; shown on the report.
        provenance_of_run: `config` (the preset's name), `overrides` (dotted keys),
            `steps`, `seconds`; all optional, over what `run.json` says (`seconds`,
            `git_revision`).
        ceiling: `toybox.ceiling.ceiling`'s scores, shown beside this run's.
        size: px of the turntable's panels.

    Names: turntable, splats, mesh, views, metrics, report; image instead of the first
    four for the `image` representation; particles and splats_1, ... for `others`. A
    failing export becomes a warning.
    """
    workdir = Path(workdir)
    made = provenance.recorded(workdir) | dict(provenance_of_run or {})
    export = _Export(workdir, warnings)
    is_image = (config.get("representation") or {}).get("name") == "image"
    prompt = str(config.get("prompt", ""))
    mesh, truth = None, None
    if render is not None:
        render = _jitted(render)
    if render is not None and is_image:
        camera = video.camera_at(video.turntable_cameras(1, SIZE), 0)
        export.keep(
            "image",
            lambda: write_image(workdir / "image.png", np.asarray(render(camera).rgb)),
        )
    elif render is not None:
        mesh = _export_asset(export, params, render, config, size)
        truth = _truth(export, render, config)
        export.keep(
            "views",
            lambda: write_image(
                workdir / "views.png",
                _views_picture(render, prompt, size, truth is not None),
            ),
        )
    if render is not None and others:
        _export_others(export, render, others, is_image)
    if truth is not None and ceiling is not None:
        truth["ceiling"] = dict(ceiling)
    final = _final(history)
    metrics = {
        "prompt": prompt,
        "status": status,
        "steps": made.get("steps", final.get("step")),
        "seconds": made.get("seconds"),
        "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": provenance.device(),
        "versions": provenance.versions(),
        "git_revision": made.get("git_revision"),
        "truth": truth,
        "final": final,
        "warnings": export.warnings,
        "export_seconds": export.seconds,
        "artifacts": {
            name: {"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)}
            for name, p in export.paths.items()
        },
    }
    if truth is None:
        del metrics["truth"]
    export.keep("metrics", lambda: write_json(workdir / "metrics.json", metrics))

    def report() -> Path:
        splats = params if isinstance(params, Gaussians) and render else None
        run = Run(
            prompt=prompt,
            preset=str(made.get("config") or "ssd"),
            status=status,
            config=config,
            metrics=metrics,
            history=history,
            warnings=export.warnings,
            paths=export.paths,
            previews=find_previews(workdir),
            commands=provenance.commands(config, workdir, made),
            viewer=viewer_html(
                splats, mesh, resolution=int(config.get("resolution", 64))
            ),
        )
        return write_bytes(workdir / "report.html", report_html(run).encode("utf-8"))

    export.keep("report", report)
    return export.paths
