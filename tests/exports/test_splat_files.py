"""Splats in every format, read back by readers that are not ours, and drawn."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from jitted import orbit_camera
from plyfile import PlyData

from sdsjax.exports.formats import write_formats
from sdsjax.exports.ply import PlyError, write_splats
from sdsjax.exports.splat_files import (
    MissingExtra,
    write_splats_glb,
    write_splats_spz,
)
from sdsjax.render.rasterize import rasterize
from sdsjax.representations.gaussians import Gaussians

COUNT = 48
HALF_TURN = np.diag(np.float32([1.0, -1.0, -1.0, 1.0]))


def cloud(coefficients=4, seed=0):
    """Long splats of all directions, with colours that change with the view."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(COUNT, 3)) * 0.35
    means[:, 1] += 0.2  # more above than below: upside down would look otherwise
    fields = {
        "means": means,
        "log_scales": rng.uniform(-3.5, -1.5, (COUNT, 3)),
        "quats": rng.normal(size=(COUNT, 4)) * 2,
        "opacity_logits": rng.uniform(-1, 3, COUNT),
        "sh": rng.normal(size=(COUNT, coefficients, 3)) * 0.4,
    }
    arrays = {k: np.asarray(v, np.float32) for k, v in fields.items()}
    return jax.device_put(Gaussians(**arrays, alive=np.ones(COUNT, bool)))


@jax.jit
def draw(splats, world_to_camera):
    camera = orbit_camera(0.0, 0.0, width=32, height=32)
    fields = {"width": 32, "height": 32, "world_to_camera": world_to_camera}
    camera = type(camera)(**fields, focal=camera.focal, principal=camera.principal)
    return rasterize(splats, camera, background=jnp.ones(3)).rgb


def views():
    for azimuth, elevation in ((30.0, 15.0), (200.0, -20.0)):
        yield np.asarray(orbit_camera(azimuth, elevation).world_to_camera)


def gltf_of(path):
    """(JSON, {semantic: array}, primitive) of a binary glTF, by its specification."""
    raw = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", raw)
    assert (magic, version, total, kind) == (b"glTF", 2, len(raw), b"JSON")
    tree = json.loads(raw[20 : 20 + length])
    binary = raw[28 + length :]
    assert raw[24 + length : 28 + length] == b"BIN\0"
    (primitive,) = tree["meshes"][0]["primitives"]
    wide = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
    kinds = {5126: "<f4", 5121: "u1"}
    found = {}
    for name, index in primitive["attributes"].items():
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        assert view.get("byteOffset", 0) % 4 == 0
        found[name] = np.frombuffer(
            binary,
            kinds[accessor["componentType"]],
            accessor["count"] * wide[accessor["type"]],
            view.get("byteOffset", 0),
        ).reshape(accessor["count"], -1)
    return tree, found, primitive


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_glb_has_what_the_extension_names(tmp_path, coefficients):
    splats = cloud(coefficients)
    path = write_splats_glb(tmp_path / "s.glb", splats)
    tree, found, primitive = gltf_of(path)
    assert tree["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert "extensionsRequired" not in tree
    assert primitive["mode"] == 0
    assert "material" not in primitive
    said = primitive["extensions"]["KHR_gaussian_splatting"]
    assert said["kernel"] == "ellipse"
    assert said["colorSpace"] == "srgb_rec709_display"
    prefix = "KHR_gaussian_splatting:"
    names = [f"SH_DEGREE_{n}_COEF_{i}" for n in range(4) for i in range(2 * n + 1)]
    wanted = {"ROTATION", "SCALE", "OPACITY", *names[:coefficients]}
    assert set(found) == {prefix + n for n in wanted} | {"POSITION", "COLOR_0"}
    np.testing.assert_array_equal(found["POSITION"], splats.means)
    scale, opacity = found[prefix + "SCALE"], found[prefix + "OPACITY"]
    np.testing.assert_allclose(scale, np.exp(splats.log_scales), rtol=1e-6)
    expected = 1 / (1 + np.exp(-np.asarray(splats.opacity_logits)))
    np.testing.assert_allclose(opacity[:, 0], expected, rtol=1e-6)
    xyzw = found[prefix + "ROTATION"]
    np.testing.assert_allclose(np.linalg.norm(xyzw, axis=1), 1, rtol=1e-6)
    length = np.linalg.norm(splats.quats, axis=1)
    quats, sh = np.asarray(splats.quats), np.asarray(splats.sh)
    np.testing.assert_allclose(xyzw[:, 3] * length, quats[:, 0], rtol=1e-5)
    np.testing.assert_allclose(xyzw[:, 0] * length, quats[:, 1], rtol=1e-5)
    for index, name in enumerate(names[:coefficients]):
        np.testing.assert_array_equal(found[prefix + name], sh[:, index])


def test_a_reader_of_points_shows_coloured_points(tmp_path):
    splats = cloud()
    path = write_splats_glb(tmp_path / "s.glb", splats)
    (points,) = trimesh.load(path).geometry.values()
    np.testing.assert_allclose(points.vertices, splats.means, atol=1e-6)
    rgb = np.clip(0.28209479 * np.asarray(splats.sh)[:, 0] + 0.5, 0, 1)
    np.testing.assert_allclose(points.colors[:, :3] / 255, rgb, atol=0.003)


def from_glb(path):
    """pygltflib finds the accessors; the numbers are what they say."""
    pygltflib = pytest.importorskip("pygltflib")
    file = pygltflib.GLTF2().load(str(path))
    blob = file.binary_blob()
    attributes = vars(file.meshes[0].primitives[0].attributes)

    def array(name):
        accessor = file.accessors[attributes[name]]
        view = file.bufferViews[accessor.bufferView]
        wide = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        values = np.frombuffer(blob, "<f4", accessor.count * wide, view.byteOffset or 0)
        return values.reshape(-1, wide)

    prefix = "KHR_gaussian_splatting:"
    opacity = array(prefix + "OPACITY")[:, 0]
    names = ["0_COEF_0", *(f"1_COEF_{i}" for i in range(3))]
    return Gaussians(
        means=array("POSITION"),
        log_scales=np.log(array(prefix + "SCALE")),
        quats=np.roll(array(prefix + "ROTATION"), 1, axis=1),
        opacity_logits=np.log(opacity / (1 - opacity)),
        sh=np.stack([array(f"{prefix}SH_DEGREE_{name}") for name in names], axis=1),
        alive=np.ones(COUNT, bool),
    )


def from_spz(path):
    gsply = pytest.importorskip("gsply")
    gsply.use_backend("auto")  # its C++, where the wheel has it: nothing to compile
    read = gsply.read_spz(path)
    return Gaussians(
        means=read.means,
        log_scales=read.scales,
        quats=read.quats,
        opacity_logits=read.opacities.reshape(-1),
        sh=np.concatenate([read.sh0[:, None], read.shN], axis=1),
        alive=np.ones(COUNT, bool),
    )


def from_ply(path):
    table = PlyData.read(path)["vertex"]

    def stack(*names):
        return np.stack([table[name] for name in names], axis=1)

    rest = stack(*(f"f_rest_{i}" for i in range(9))).reshape(COUNT, 3, 3)
    dc = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    return Gaussians(
        means=stack("x", "y", "z"),
        log_scales=stack(*(f"scale_{i}" for i in range(3))),
        quats=stack(*(f"rot_{i}" for i in range(4))),
        opacity_logits=np.asarray(table["opacity"]),
        sh=np.concatenate([dc, rest.transpose(0, 2, 1)], axis=1),
        alive=np.ones(COUNT, bool),
    )


# SPZ: positions to 2^-13, logarithms of scales to 1 / 32, the rest to half of 1 / 255
@pytest.mark.parametrize(
    ("write", "read", "largest", "mean"),
    [
        (write_splats_glb, from_glb, 2e-4, 1e-5),
        (write_splats_spz, from_spz, 0.1, 0.01),
        (write_splats, from_ply, 2e-4, 1e-5),
    ],
    ids=["glb", "spz", "ply"],
)
def test_what_another_reads_looks_the_same(tmp_path, write, read, largest, mean):
    splats = cloud()
    other = jax.device_put(read(write(tmp_path / "s.glb", splats)))
    for view in views():
        # the PLY has y down: its cameras stand on their heads with it
        theirs = view @ HALF_TURN if write is write_splats else view
        cases = (splats, view), (other, theirs), (other, view @ HALF_TURN)
        ours, again, turned = (np.asarray(draw(*case)) for case in cases)
        error = np.abs(ours - again)
        assert error.max() < largest
        assert error.mean() < mean
        assert np.abs(ours - turned).max() > (0.3 if write is not write_splats else -1)


def test_dead_rows_and_what_is_not_finite(tmp_path):
    splats = cloud()
    half = splats._replace(alive=np.arange(COUNT) % 2 == 0)
    _, found, _ = gltf_of(write_splats_glb(tmp_path / "s.glb", half))
    assert len(found["POSITION"]) == COUNT // 2
    sh = np.array(splats.sh)
    sh[3, 0, 0] = np.inf
    broken = splats._replace(sh=sh)
    for write in (write_splats_glb, write_splats_spz):
        with pytest.raises(PlyError, match="1 splats hold values that are not finite"):
            write(tmp_path / "t", broken)
        with pytest.raises(PlyError, match="no splat is alive"):
            write(tmp_path / "t", splats._replace(alive=np.zeros(COUNT, bool)))
    assert [p.name for p in tmp_path.iterdir()] == ["s.glb"]


def test_spz_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    with pytest.raises(MissingExtra, match=r"sdsjax\[spz\]"):
        write_splats_spz(tmp_path / "s.spz", cloud())
    with pytest.raises(MissingExtra):
        write_formats(tmp_path, cloud(), ("ply", "spz"))
    assert not list(tmp_path.iterdir())
