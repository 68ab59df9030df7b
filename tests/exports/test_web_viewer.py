"""splats.ply in a viewer from npm, in headless Chromium: upright, as we draw it.

The viewer is @mkkellogg/gaussian-splats-3d (MIT, three.js). It is given the camera that
its README gives for scenes of the 3DGS code: up is (0, -1, 0).
"""

import base64
import http.server
import io
import json
import queue
import shutil
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sdsjax.cameras import camera_position, orbit_camera
from sdsjax.exports.ply import write_splats
from sdsjax.render.rasterize import rasterize
from sdsjax.render.spherical_harmonics import coefficient_of_colour
from sdsjax.representations.gaussians import Gaussians

PACKAGES = ("@mkkellogg/gaussian-splats-3d@0.4.7", "three@0.169.0")
SIZE = 192
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and NPM), reason="no Chromium, or no npm"),
]
PAGE = """<!doctype html><html><body style="margin:0">
<div id="root" style="width:{size}px;height:{size}px"></div>
<script type="importmap">{{"imports": {{"three": "/three.js"}}}}</script>
<script type="module">
const tell = (kind, text) => fetch("/" + kind, {{method: "POST", body: text}});
try {{
  const THREE = await import("three");
  const {{Viewer}} = await import("/viewer.js");
  const camera = new THREE.PerspectiveCamera(40, 1, 0.1, 100);
  camera.up.set(0, -1, 0);
  camera.position.set({eye});
  camera.lookAt(0, 0, 0);
  camera.updateMatrixWorld();  // the viewer sorts by it before it first draws
  const renderer = new THREE.WebGLRenderer({{preserveDrawingBuffer: true}});
  renderer.setSize({size}, {size});
  document.getElementById("root").appendChild(renderer.domElement);
  const viewer = new Viewer({{
    renderer, camera, selfDrivenMode: false, useBuiltInControls: false,
    sharedMemoryForWorkers: false, gpuAcceleratedSort: false,
    ignoreDevicePixelRatio: true, cameraUp: [0, -1, 0],
  }});
  await viewer.addSplatScene("/splats.ply", {{
    showLoadingUI: false, progressiveLoad: false, splatAlphaRemovalThreshold: 1,
  }});
  for (let frame = 0; frame < 60; frame++) {{
    viewer.update();
    viewer.render();
    await new Promise((go) => setTimeout(go, 50));
  }}
  tell("picture", renderer.domElement.toDataURL("image/png"));
}} catch (error) {{
  tell("error", String(error) + " " + (error.stack || ""));
}}
</script></body></html>"""


def solid():
    """A red ball, a blue hat on it, a green nose in front, a yellow arm at its left."""
    rng = np.random.default_rng(0)

    def ball(count, centre, radius, rgb):
        points = rng.normal(size=(count, 3))
        points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
        return points + centre, np.tile(rgb, (count, 1))

    parts = [
        ball(500, (0, -0.2, 0), 0.5, (0.9, 0.1, 0.1)),
        ball(250, (0, 0.5, 0), 0.25, (0.1, 0.2, 0.9)),
        ball(100, (0, -0.1, 0.55), 0.12, (0.1, 0.8, 0.2)),
        ball(100, (0.6, -0.2, 0), 0.15, (0.95, 0.85, 0.1)),
    ]
    means, rgb = (np.concatenate(column) for column in zip(*parts))
    count = len(means)
    return Gaussians(
        means=jnp.asarray(means, jnp.float32),
        log_scales=jnp.full((count, 3), jnp.log(0.04)),
        quats=jnp.tile(jnp.array([1.0, 0, 0, 0]), (count, 1)),
        opacity_logits=jnp.full(count, 3.0),
        sh=coefficient_of_colour(jnp.asarray(rgb, jnp.float32))[:, None],
        alive=jnp.ones(count, bool),
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npm")
    command = [NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run([*command, *PACKAGES], cwd=folder, check=True, timeout=300)
    built = folder / "node_modules"
    return {
        "/three.js": built / "three" / "build" / "three.module.js",
        "/viewer.js": built.joinpath(
            "@mkkellogg", "gaussian-splats-3d", "build", "gaussian-splats-3d.module.js"
        ),
    }


def shown(files, page, profile):
    """The picture [h w 3] that a page posts back."""
    answers = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = page.encode()
            if self.path != "/":
                file = files.get(self.path)
                content = file.read_bytes() if file else b""
                if not file:
                    self.send_error(404)
                    return
            script = self.path.endswith(".js")
            self.send_response(200)
            kind = "text/javascript" if script else "text/html"
            self.send_header(
                "Content-Type",
                "application/octet-stream" if self.path.endswith("ply") else kind,
            )
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answers.put((self.path, body.decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        kind, text = answers.get(timeout=180)
    finally:
        browser.terminate()
        browser.wait(30)
        server.shutdown()
        server.server_close()
    assert kind == "/picture", text
    picture = base64.b64decode(text.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) / 255


@pytest.mark.parametrize(("azimuth", "elevation"), [(30.0, 20.0), (75.0, -20.0)])
def test_a_viewer_of_the_web_shows_splats_upright(
    packages, tmp_path, azimuth, elevation
):
    splats = solid()
    files = {**packages, "/splats.ply": write_splats(tmp_path / "splats.ply", splats)}
    camera = orbit_camera(azimuth, elevation, width=SIZE, height=SIZE)
    x, y, z = (float(v) for v in camera_position(camera))
    eye = json.dumps([x, -y, -z])[1:-1]  # the file's y and z are turned
    page = PAGE.format(size=SIZE, eye=eye)
    theirs = shown(files, page, tmp_path / "profile")
    drawn = jax.jit(rasterize)(splats, camera, background=jnp.zeros(3))
    ours = np.clip(np.asarray(drawn.rgb), 0, 1)
    error = np.abs(ours - theirs).mean()
    for wrong in (ours[::-1], ours[:, ::-1], ours[::-1, ::-1]):
        assert np.abs(wrong - theirs).mean() > 4 * error
    assert error < 0.01
    inside, seen = np.asarray(drawn.opacity) > 0.5, theirs.max(axis=-1) > 0.3
    assert (inside & seen).sum() / (inside | seen).sum() > 0.95
