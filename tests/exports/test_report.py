"""The report and `export_all`: complete, escaped, offline, and never in the way."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.base import base_config
from sdsjax import exports
from sdsjax.diagnostics import plots
from sdsjax.exports import viewer
from sdsjax.exports.density_grid import SH_C0
from sdsjax.exports.mesh import extract_mesh
from sdsjax.exports.ply import read_splats
from sdsjax.exports.report import Run, report_html
from sdsjax.render.splatting.rasterize import rasterize
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs import provenance
from sdsjax.toybox.scoring import score
from sdsjax.types import Rendering

EVIL = 'a <script>alert("x")</script> & "blue" house'


def cloud(count=200):
    rng = np.random.default_rng(0)
    ray = rng.normal(size=(count, 3))
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    rgb = 0.5 + 0.4 * np.sign(ray)
    made = Gaussians(
        means=(0.5 * ray).astype("f4"),
        log_scales=np.full((count, 3), np.log(0.08), "f4"),
        quats=np.tile(np.array([1.0, 0, 0, 0], "f4"), (count, 1)),
        opacity_logits=np.full(count, 2.0, "f4"),
        sh=((rgb - 0.5) / SH_C0).astype("f4")[:, None],
        alive=np.ones(count, bool),
    )
    return jax.device_put(made)


def config(**changes):
    return {
        "prompt": EVIL,
        "seed": 3,
        "resolution": 64,
        "estimator": {"name": "ssd", "threshold": 500.0},
        "representation": {"name": "gaussians"},
        "exports": {"turntable_frames": 4, "mesh_resolution": 24},
        "scoring": {"truth": True},
        **changes,
    }


HISTORY = [
    {"step": i, "loss": 1 / (i + 1), "grad_norm": 2.0, "odd": float("nan")}
    for i in range(30)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "previews").mkdir()
    for step in (10, 200):
        picture = Image.fromarray(np.full((8, 8, 3), step, np.uint8))
        picture.save(workdir / "previews" / f"step-{step:06d}.png")
    splats = cloud()

    def render(camera):
        return rasterize(splats, camera, background=jnp.ones(3))

    paths = exports.export_all(
        workdir,
        splats,
        render,
        config(),
        HISTORY,
        warnings=["a <b>bold</b> warning"],
        provenance_of_run={"steps": 30, "seconds": 12.5, "config": "ssd"},
        size=64,
    )
    return workdir, paths, paths["report"].read_text("utf-8")


@pytest.mark.slow
def test_everything_is_written(run):
    workdir, paths, _ = run
    names = {"turntable", "splats", "splats_gltf", "mesh", "views", "metrics"}
    assert set(paths) == names | {"report"}
    assert all(path.is_file() and path.parent == workdir for path in paths.values())
    assert not [p for p in workdir.iterdir() if p.name.startswith(".")]
    np.testing.assert_array_equal(read_splats(paths["splats"]).means, cloud().means)


def test_metrics_are_strict_json_and_name_the_files(run):
    workdir, paths, _ = run
    metrics = json.loads(paths["metrics"].read_text(), parse_constant=pytest.fail)
    assert (metrics["prompt"], metrics["status"]) == (EVIL, "finished")
    assert (metrics["steps"], metrics["seconds"]) == (30, 12.5)
    assert metrics["final"]["loss"] == pytest.approx(1 / 30)
    assert "truth" not in metrics  # the prompt is no caption of the toybox
    mesh = metrics["artifacts"]["mesh"]
    content = (workdir / mesh["file"]).read_bytes()
    assert mesh["sha256"] == hashlib.sha256(content).hexdigest()
    assert mesh["bytes"] == len(content)


def test_report_escapes_what_people_type(run):
    _, _, html = run
    assert 'alert("x")' not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in html
    assert "a &lt;b&gt;bold&lt;/b&gt; warning" in html


def test_report_needs_no_network(run):
    _, _, html = run
    html = re.sub(r'<a href="https://[^"]*">', "", html)  # loads nothing by itself
    addresses = re.findall(r"""(?:src|href)="([^"]*)""", html)
    assert addresses
    files = {"turntable.mp4", "splats.ply", "mesh.glb", "views.png", "metrics.json"}
    files |= {"splats.glb"}
    for address in addresses:
        assert address.startswith("data:") or address in files
    assert not re.search(r"https?://|@import|url\(", html)


def test_report_links_to_what_the_docs_say_of_its_keys():
    """Each link is a page of the repository and a heading there, by GitHub's slugs."""
    config = base_config().to_dict()
    blank = Run("", "", "finished", config, {}, [], [], {}, [], ("", ""))
    links = re.findall(
        r'<a href="https://[^"]*/blob/main/([^"]*)">', report_html(blank)
    )
    assert len(links) == 4
    root = Path(__file__).resolve().parents[2]
    for link in links:
        page, _, anchor = link.partition("#")
        headings = re.findall(r"^#+ (.*)$", (root / page).read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not anchor or anchor in slugs


def test_report_shows_every_section(run):
    _, paths, html = run
    digest = hashlib.sha256(paths["splats"].read_bytes()).hexdigest()
    for piece in ("<video", "<canvas", "step 10<", "step 200<", digest, "<svg"):
        assert piece in html, piece
    for title in (
        "Fixed views",
        "On the way",
        "Curves",
        "Repeat and continue",
        "Files",
    ):
        assert f"<h2>{title}</h2>" in html


def test_aborted_run_still_reports(tmp_path):
    paths = exports.export_all(
        tmp_path, None, None, config(), HISTORY[:1], status="aborted", warnings=["NaN"]
    )
    assert set(paths) == {"metrics", "report"}
    html = paths["report"].read_text()
    assert "aborted" in html
    assert "<li>NaN</li>" in html
    assert "<video" not in html


def test_a_failing_piece_becomes_a_warning(tmp_path):
    faint = cloud()._replace(opacity_logits=np.full(200, -9.0, "f4"))

    def render(camera):
        flat = jnp.zeros((camera.height, camera.width))
        white = jnp.ones((camera.height, camera.width, 3))
        return Rendering(white, flat, flat, 0 * white)

    paths = exports.export_all(tmp_path, faint, render, config(), size=32)
    assert "mesh" not in paths
    assert {"turntable", "splats", "report"} <= set(paths)
    warnings = json.loads(paths["metrics"].read_text())["warnings"]
    assert len(warnings) == 1
    assert warnings[0].startswith("mesh was not written: no splat is opaque enough")


def test_a_toybox_prompt_is_scored_and_shown_beside_the_truth(tmp_path, monkeypatch):
    # a ray a pixel: two million of them take five seconds
    rough = partial(score.true_views, supersample=1)
    monkeypatch.setattr(score, "true_views", rough)

    def render(camera):
        across = jnp.arange(camera.width) - 0.5 * (camera.width - 1)
        disc = across**2 + across[:, None] ** 2 < (0.35 * camera.width) ** 2
        cover = disc.astype(jnp.float32)
        red = jnp.array([0.9, 0.1, 0.1])
        rgb = cover[..., None] * red + (1 - cover)[..., None]
        return Rendering(rgb, cover, 2.2 * cover, 0 * rgb)

    settings = config(
        prompt="a red ball", exports={"turntable_frames": 0, "mesh_resolution": 0}
    )
    best = {"iou": 0.98, "psnr": 25.0}
    paths = exports.export_all(
        tmp_path, cloud(), render, settings, ceiling=best, size=32
    )
    metrics = json.loads(paths["metrics"].read_text())
    assert metrics["warnings"] == []
    truth = metrics["truth"]
    assert {"iou", "psnr", "chamfer", "janus_rate"} <= set(truth)
    # The true ball's outline is a disc too: radius 0.92 seen from 3.1, fov 40 degrees.
    true_radius = 0.5 * np.tan(np.arcsin(0.92 / 3.1)) / np.tan(np.deg2rad(20))
    assert truth["iou"] == pytest.approx((0.35 / true_radius) ** 2, abs=0.02)
    assert truth["janus_rate"] is None  # a ball has no front
    assert truth["ceiling"] == best
    html = paths["report"].read_text()
    assert "Mask IoU" in html
    assert "Ceiling" in html
    shown = np.asarray(Image.open(paths["views"]).convert("RGB"), float)
    assert shown.shape == (2 * 32, 5 * 32, 3)
    # Below: the true ball, red from every side.
    for column in range(5):
        red, green, _ = shown[32 + 16, 32 * column + 16]
        assert red > 2 * green


def test_image_representation_writes_a_picture(tmp_path):
    pixels = np.random.default_rng(0).random((8, 12, 3), np.float32)

    def render(camera):
        flat = jnp.zeros(pixels.shape[:2])
        return Rendering(pixels, flat + 1, flat, 0 * pixels)

    settings = config(representation={"name": "image"})
    paths = exports.export_all(tmp_path, None, render, settings, HISTORY)
    assert set(paths) == {"image", "metrics", "report"}
    shown = np.asarray(Image.open(paths["image"])) / 255
    np.testing.assert_allclose(shown, pixels, atol=0.5 / 255 + 1e-6)


def test_commands_repeat_what_was_typed(tmp_path):
    made = {"config": "sds:image", "overrides": {"steps": 7, "prompt": "it's"}}
    reproduce, resume = provenance.commands({"prompt": "x", "seed": 1}, tmp_path, made)
    words = ["python", "-m", "sdsjax.main", "--config=sds:image"]
    words += ["--config.prompt=it's", "--config.seed=1", "--config.steps=7"]
    assert shlex.split(reproduce) == words
    # The directory holds the config: what was typed need not be typed again.
    assert shlex.split(resume) == [*words[:3], f"--workdir={tmp_path}"]


def test_sessions_of_the_run_directory_are_read(tmp_path):
    assert provenance.recorded(tmp_path) == {}
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 60))
    session = {"started": started, "git_revision": "abc"}
    (tmp_path / "run.json").write_text(json.dumps({"sessions": [session]}))
    found = provenance.recorded(tmp_path)
    assert found["git_revision"] == "abc"
    assert 55 < found["seconds"] < 120
    (tmp_path / "run.json").write_text(json.dumps({"sessions": [session, session]}))
    assert "seconds" not in provenance.recorded(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    assert provenance.recorded(tmp_path) == {}


def test_plots_skip_what_is_no_line_and_use_a_log_axis():
    series = plots.scalar_series([*HISTORY, {"step": 30, "once": 1.0, "word": "x"}])
    assert list(series) == ["loss", "grad_norm"]
    steps = np.arange(5.0)
    assert ">1e+6<" in plots.line_plot("wide", steps, 10.0 ** (1.5 * steps))
    assert plots.plots_html([]) == ""
    assert "&lt;b&gt;" in plots.line_plot("<b>", steps, steps)


def test_viewer_packs_splats_and_mesh():
    splats = cloud()
    rows = np.frombuffer(viewer.pack_splats(splats), "<f4").reshape(-1, 13)
    np.testing.assert_array_equal(rows[:, :3], splats.means)
    np.testing.assert_allclose(rows[:, [3, 6, 8]], 0.08**2, rtol=1e-4)
    np.testing.assert_allclose(rows[:, [4, 5, 7]], 0, atol=1e-9)
    assert len(viewer.pack_splats(splats, limit=10)) == 10 * 13 * 4
    mesh = extract_mesh(splats, resolution=24)
    raw, box = viewer.pack_mesh(mesh)
    packed = np.frombuffer(raw, "<u2", 3 * box["vertices"]).reshape(-1, 3)
    found = np.array(box["low"]) + packed * box["step"]
    np.testing.assert_allclose(found, mesh.vertices, atol=box["step"])
    faces = np.frombuffer(raw, "<u4", 3 * box["faces"], box["faces_at"])
    np.testing.assert_array_equal(faces, mesh.faces.ravel())
    assert len(raw) == box["colours_at"] + 3 * box["vertices"]


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_report_in_a_browser_is_not_blank(run, tmp_path):
    """file://, every host unreachable: the page draws, the viewer and the video too."""
    _, paths, _ = run
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=8000",
        "--window-size=1200,1500",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    address = paths["report"].as_uri()
    shot = tmp_path / "shot.png"
    subprocess.run([*command, f"--screenshot={shot}", address], check=True, timeout=240)
    picture = np.asarray(Image.open(shot).convert("RGB"), float)
    assert picture.std() > 10
    page = subprocess.run(
        [*command, "--dump-dom", address],
        check=True,
        timeout=240,
        capture_output=True,
        text=True,
    ).stdout
    # The script marks the viewer once it has drawn without an error.
    assert 'data-drawn="splats"' in page
    assert "<video" in page
    # The viewer's canvas is the left half below the turntable: saturated colours.
    half = picture[300:, :600]
    saturated = (half.max(axis=2) - half.min(axis=2)) > 120
    assert saturated.sum() > 2000
