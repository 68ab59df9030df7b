"""What a run leaves behind: turntable, splats, mesh, figures, one report.

`export_all` writes everything it can: a piece that cannot be written becomes a warning,
announced at once and kept in the report, and is named in the error that comes when all
have been tried. What an earlier step left under a name not written now is removed, so
that no file shows another state than its report. Cameras and colours as in `video` and
`mesh`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdsjax.evaluation.records import of_step
from sdsjax.exports import glb, pictures, ply, video
from sdsjax.exports import mesh as meshes
from sdsjax.exports.pictures import Render
from sdsjax.exports.report import Run, report_html
from sdsjax.exports.scores.section import numbers_html
from sdsjax.exports.splat_files import write_splats_glb
from sdsjax.exports.viewer import viewer_html
from sdsjax.exports.written_files import (
    ExportError,
    WrittenFiles,
    find_previews,
    write_json,
)
from sdsjax.files.atomic import write_bytes
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs import provenance
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import CaptionError, parse_caption

SIZE = 256


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
    announce: Callable[[str], None] | None = None,
    size: int = SIZE,
) -> dict[str, Path]:
    """Writes every export of a run into `workdir`; returns name -> path.

    Args:
        params: Gaussians, or a radiance field as a function of points
            (mesh.mesh_of_field), or the `image` representation's parameters, or None.
        render: camera -> Rendering on a white background, jit-able (for the `image`
            representation: the picture, whatever the camera); None: nothing is drawn,
            as after an abort with no usable parameters. A `jax.tree_util.Partial` of a
            jitted function is called as it is, anything else is jitted.
        config: the resolved config, nested; history: rows of scalars with `step`.
        others: (params, render) of a run's other particles.
        status: "finished", "aborted", ...; shown on the report.
        provenance_of_run: `config` (the preset's name), `overrides` (dotted keys),
            `steps`, `seconds`; all optional, over what `run.json` says (`seconds`,
            `git_revision`).
        ceiling: `training.ceilings.fit`'s scores, shown beside this run's.
        announce: called with each new warning.
        size: px of the turntable's panels.

    Raises ExportError where something could not be written that could be another time
    (a full disk): all the rest is there. An asset with no surface is only a warning.
    Names: turntable, splats, splats_gltf, mesh, views, metrics, report; for the `image`
    representation image instead of the first four; particles, splats_1, ... for others.
    """
    workdir = Path(workdir)
    made = provenance.recorded(workdir) | dict(provenance_of_run or {})
    files = WrittenFiles(workdir, warnings, announce)
    mesh, truth = None, None
    if render is not None:
        render = scoring.compiled(render)
        mesh, truth = _write_drawn(files, params, render, config, size, others)
    if truth is not None and ceiling is not None:
        truth["ceiling"] = dict(ceiling)
    _settle_outdated(files, status)
    metrics = _metrics(files, config, history, made, status, truth)
    splats = params if isinstance(params, Gaussians) and render else None
    report = partial(
        _write_report, files, config, history, made, metrics, (splats, mesh)
    )
    _write_account(files, metrics, report)
    return files.paths


def _write_account(
    files: WrittenFiles, metrics: Mapping[str, Any], report: Callable[[], Path]
) -> None:
    """Writes metrics.json and the report. Raises ExportError if anything is missing."""
    path, known = files.workdir / "metrics.json", len(files.warnings)
    files.keep("metrics", lambda: write_json(path, metrics))
    files.keep("report", report)
    files.remove_outdated(("metrics.json", "report.html"))
    if len(files.warnings) > known and "metrics" in files.paths:
        files.attempt("metrics", lambda: write_json(path, metrics))
    if files.missing:
        names = ", ".join(dict.fromkeys(files.missing))
        raise ExportError(
            f"not all of {files.workdir} could be written (missing: {names}); what was "
            "trained is kept: the same command writes it, without training again"
        )


def _write_drawn(
    files: WrittenFiles,
    params: Any,
    render: Render,
    config: Mapping,
    size: int,
    others: Sequence[tuple[Any, Render]],
) -> tuple[meshes.Mesh | None, dict | None]:
    """Writes what is drawn of an asset; returns its mesh and the toybox's scores."""
    flat = (config.get("representation") or {}).get("name") == "image"
    mesh, truth = None, None
    if flat:
        path = files.workdir / "image.png"
        files.keep("image", lambda: pictures.write_flat(path, render, size=SIZE))
    else:
        mesh = _write_asset(files, params, render, config, size)
        truth = _write_views(files, render, config, size)
    if others:
        _write_others(files, render, others, flat)
    return mesh, truth


def _settle_outdated(files: WrittenFiles, status: str) -> None:
    """Removes the pictures and splats of an earlier step, or says that they are.

    A run that was only stopped keeps them: it goes on, and then replaces them.
    """
    later = ("metrics.json", "report.html")
    names = [p.name for p in files.outdated() if p.name not in later]
    if names and status == "stopped":
        files.warn(f"of an earlier step: {', '.join(names)}")
    elif names:
        files.remove_outdated(names)


def _write_asset(
    files: WrittenFiles, params: Any, render: Render, config: Mapping, size: int
) -> meshes.Mesh | None:
    """Writes turntable, splats and mesh.glb; returns the mesh for the viewer."""
    wanted = config.get("exports") or {}
    frames = int(wanted.get("turntable_frames", 48))
    if frames > 0:
        path = files.workdir / "turntable.mp4"
        files.keep(
            "turntable",
            lambda: pictures.write_turntable(path, render, frames=frames, size=size),
        )
    if isinstance(params, Gaussians):
        path_of_splats = files.workdir / "splats.ply"
        files.keep("splats", lambda: ply.write_splats(path_of_splats, params))
        path_of_gltf = files.workdir / "splats.glb"
        files.keep("splats_gltf", lambda: write_splats_glb(path_of_gltf, params))
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
    mesh = files.attempt(
        "mesh", lambda: extract(resolution=resolution), absent=meshes.MeshError
    )
    if mesh is not None:
        path_of_mesh, uv = files.workdir / "mesh.glb", bool(wanted.get("uv", False))
        files.keep("mesh", lambda: glb.write_mesh(path_of_mesh, mesh, uv=uv))
    return mesh


def tasks_ahead(
    draw: Any, params: Any, rep_state: Any, config: Mapping
) -> list[Callable[[], Any]]:
    """Lists what may be done before there is anything to export: functions of nothing.

    They compile drawing at the sizes of exports and scores, and render the true
    pictures of a toybox prompt. draw: jitted, (params, rep_state, camera) -> Rendering;
    params, rep_state: of `runs.ahead.shapes_of`; config: nested.
    """

    def drawing(size: int) -> Callable[[], Any]:
        camera = video.camera_at(video.turntable_cameras(1, size), 0)
        return lambda: draw.lower(params, rep_state, camera).compile()

    flat = (config.get("representation") or {}).get("name") == "image"
    prompt = str(config.get("prompt", ""))
    if flat or not _is_scored(config, prompt):
        return [drawing(SIZE)]
    ready = partial(scoring.ready, prompt)
    return [drawing(SIZE), drawing(scoring.SIZE), ready]


def _is_scored(config: Mapping, prompt: str) -> bool:
    """Tells whether an asset is compared with the true pictures of its prompt."""
    if not (config.get("scoring") or {}).get("truth", True):
        return False
    try:
        parse_caption(prompt)
    except CaptionError:
        return False
    return True


def _write_views(
    files: WrittenFiles, render: Render, config: Mapping, size: int
) -> dict | None:
    """Writes views.png; returns the toybox's scores where the prompt is a caption."""
    prompt, truth = str(config.get("prompt", "")), None
    if _is_scored(config, prompt):
        truth = files.attempt("truth", lambda: scoring.score(render, prompt))
        _add_source_scores(files, truth, render, config)
    path, known = files.workdir / "views.png", truth is not None
    files.keep(
        "views",
        lambda: pictures.write_views(path, render, prompt, size=size, with_truth=known),
    )
    return truth


def _add_source_scores(
    files: WrittenFiles, truth: dict | None, render: Render, config: Mapping
) -> None:
    """Adds `source` to the scores of an edited asset: those against what it was."""
    prompt = str((config.get("edit") or {}).get("source_prompt") or "")
    if truth is None or not prompt:
        return
    try:
        parse_caption(prompt)
    except CaptionError:
        return
    found = files.attempt("truth", lambda: scoring.score(render, prompt))
    if found is not None:
        truth["source"] = {"prompt": prompt, **found}


def _write_others(
    files: WrittenFiles,
    render: Render,
    others: Sequence[tuple[Any, Render]],
    flat: bool,
) -> None:
    """Writes particles.png, the first on top, and splats-1.ply, ... of the others."""
    renders = [render, *(scoring.compiled(other) for _, other in others)]
    sheet = files.workdir / "particles.png"
    files.keep(
        "particles",
        lambda: pictures.write_particles(sheet, renders, size=SIZE, flat=flat),
    )
    for index, (params, _) in enumerate(others, 1):
        if isinstance(params, Gaussians):
            path = files.workdir / f"splats-{index}.ply"
            files.keep(f"splats_{index}", partial(ply.write_splats, path, params))


def _final(history: Sequence[Mapping]) -> dict[str, float]:
    """Returns the last value of each scalar of a history."""
    final: dict[str, float] = {}
    for row in history:
        final.update({k: v for k, v in row.items() if np.ndim(v) == 0})
    return final


def _metrics(
    files: WrittenFiles,
    config: Mapping,
    history: Sequence[Mapping],
    made: Mapping[str, Any],
    status: str,
    truth: Mapping | None,
) -> dict[str, Any]:
    """Returns the content of metrics.json."""
    final = _final(history)
    metrics = {
        "prompt": str(config.get("prompt", "")),
        "status": status,
        "steps": made.get("steps", final.get("step")),
        "seconds": made.get("seconds"),
        "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": provenance.device(),
        "versions": provenance.versions(),
        "git_revision": made.get("git_revision"),
        "truth": truth,
        "final": final,
        "warnings": files.warnings,
        "missing": files.missing,
        "export_seconds": files.seconds,
        "artifacts": files.artifacts(),
    }
    if truth is None:
        del metrics["truth"]
    return metrics


def _write_report(
    files: WrittenFiles,
    config: Mapping,
    history: Sequence[Mapping],
    made: Mapping[str, Any],
    metrics: Mapping[str, Any],
    shown: tuple[Gaussians | None, meshes.Mesh | None],
) -> Path:
    """Writes report.html; shown: the splats and the mesh of its viewer."""
    resolution = int(config.get("resolution", 64))
    finished = metrics["status"] == "finished"
    record = of_step(files.workdir, metrics["steps"])
    run = Run(
        prompt=metrics["prompt"],
        preset=str(made.get("config") or "ssd"),
        status=metrics["status"],
        config=config,
        metrics=metrics,
        history=history,
        warnings=files.warnings,
        paths=files.paths,
        previews=find_previews(files.workdir),
        commands=provenance.commands(config, files.workdir, made),
        viewer=viewer_html(*shown, resolution=resolution),
        numbers=numbers_html(record, files.workdir) if finished else "",
    )
    page = report_html(run).encode("utf-8")
    return write_bytes(files.workdir / "report.html", page)
