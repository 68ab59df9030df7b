"""PLY: the layout byte for byte, the round trip bit for bit, hostile headers."""

import struct

import jax
import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from sdsjax.exports.ply import (
    TURNED,
    PlyError,
    harmonic_signs,
    read_splats,
    write_splats,
)
from sdsjax.render.spherical_harmonics import colour
from sdsjax.representations.gaussians import Gaussians
from sdsjax.representations.gaussians.given_points import read_points


def cloud(count=7, coefficients=4, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype("f4")

    made = Gaussians(
        means=draw(count, 3),
        log_scales=draw(count, 3),
        quats=draw(count, 4),
        opacity_logits=draw(count),
        sh=draw(count, coefficients, 3),
        alive=np.ones(count, bool),
    )
    return jax.device_put(made)


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_round_trip_is_bit_exact(tmp_path, coefficients):
    before = cloud(coefficients=coefficients)
    after = read_splats(write_splats(tmp_path / "s.ply", before))
    for name, leaf in before._asdict().items():
        np.testing.assert_array_equal(leaf, getattr(after, name), err_msg=name)


def test_only_alive_rows_are_written(tmp_path):
    alive = np.asarray([True, False, True, False, False, True, True])
    before = cloud()._replace(alive=alive)
    after = read_splats(write_splats(tmp_path / "s.ply", before))
    np.testing.assert_array_equal(after.means, np.asarray(before.means)[alive])
    assert np.asarray(after.alive).all()


def test_layout_read_independently(tmp_path):
    splats = cloud(count=3)
    raw = write_splats(tmp_path / "s.ply", splats).read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert lines[2] == (
        "comment sdsjax: y down, turned half a turn about x from y up, front +z"
    )
    assert lines[3] == "element vertex 3"
    assert all(line.startswith("property float ") for line in lines[4:])
    names = [line.split()[-1] for line in lines[4:]]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(9)]
    expected += ["opacity", "scale_0", "scale_1", "scale_2"]
    assert names == [*expected, "rot_0", "rot_1", "rot_2", "rot_3"]
    width = len(names)
    splats = jax.device_get(splats)
    row = dict(zip(names, struct.unpack_from(f"<{width}f", body, 4 * width)))
    assert row["x"] == float(splats.means[1, 0])
    assert row["y"] == -float(splats.means[1, 1])
    assert row["z"] == -float(splats.means[1, 2])
    assert row["nx"] == row["ny"] == row["nz"] == 0.0
    assert row["f_dc_2"] == float(splats.sh[1, 0, 2])
    # Channel-major: three of red, then three of green.
    # Half a turn about x: of y, z, x (m = -1, 0, 1) the first two change their signs.
    assert row["f_rest_1"] == -float(splats.sh[1, 2, 0])
    assert row["f_rest_2"] == float(splats.sh[1, 3, 0])
    assert row["f_rest_3"] == -float(splats.sh[1, 1, 1])
    assert row["opacity"] == float(splats.opacity_logits[1])
    assert row["scale_2"] == float(splats.log_scales[1, 2])
    w, x, y, z = map(float, splats.quats[1])
    assert [row[f"rot_{i}"] for i in range(4)] == [-x, w, -z, y]


def matrices(quats):
    """Rotations of quaternions wxyz, by scipy."""
    return Rotation.from_quat(np.roll(np.asarray(quats), -1, axis=1)).as_matrix()


HALF_TURN = np.diag([1.0, -1.0, -1.0])
seen = jax.jit(colour)


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_what_is_written_is_the_object_turned_about_x(tmp_path, coefficients):
    """Covariances and colours seen from anywhere, by another reader and scipy."""
    splats = cloud(count=5, coefficients=coefficients)
    table = PlyData.read(write_splats(tmp_path / "s.ply", splats))["vertex"]
    means = np.stack([table[n] for n in "xyz"], axis=1)
    np.testing.assert_array_equal(means, np.asarray(splats.means) @ HALF_TURN)
    quats = np.stack([table[f"rot_{i}"] for i in range(4)], axis=1)
    np.testing.assert_allclose(
        matrices(quats), HALF_TURN @ matrices(splats.quats), atol=1e-6
    )
    dc = np.stack([table[f"f_dc_{i}"] for i in range(3)], axis=1)[:, None]
    rest = [table[f"f_rest_{i}"] for i in range(3 * (coefficients - 1))]
    rest = np.reshape(np.array(rest).T, (5, 3, -1)).transpose(0, 2, 1)
    written = np.concatenate([dc, rest], axis=1)
    directions = np.random.default_rng(2).normal(size=(9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for direction in directions.astype(np.float32):
        turned = (HALF_TURN @ direction).astype("f4")
        ours = seen(splats.sh, np.tile(direction, (5, 1)))
        theirs = seen(written, np.tile(turned, (5, 1)))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_signs_of_the_fourth_degree_are_those_of_the_functions():
    """Against scipy's complex harmonics, real part or imaginary part by m's sign."""
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 50))
    signs, at = harmonic_signs(25), 16

    def real(m, y, z):
        polar, azimuth = np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
        values = sph_harm_y(4, abs(m), polar, azimuth)
        return values.imag if m < 0 else values.real

    for m in range(-4, 5):
        np.testing.assert_allclose(
            real(m, -y, -z), signs[at + 4 + m] * real(m, y, z), atol=1e-12
        )


def test_a_file_without_the_comment_is_read_as_it_is(tmp_path):
    before = cloud()
    raw = write_splats(tmp_path / "s.ply", before).read_bytes()
    head, _, body = raw.partition(b"element")
    plain = with_bytes(tmp_path, head.split(b"comment")[0] + b"element" + body)
    after = read_splats(plain)
    np.testing.assert_array_equal(after.means, np.asarray(before.means) @ HALF_TURN)
    # and what is written of that is the same again, after the other half of the turn
    again = read_splats(write_splats(tmp_path / "t.ply", after))
    np.testing.assert_array_equal(again.means, after.means)
    np.testing.assert_array_equal(read_points(plain)[:, :3], after.means)


def test_writer_refuses_nothing_and_nan(tmp_path):
    with pytest.raises(PlyError, match="no splat is alive"):
        write_splats(tmp_path / "s.ply", cloud()._replace(alive=np.zeros(7, bool)))
    means = np.array(cloud().means)
    means[2, 1] = np.nan
    broken = cloud()._replace(means=means)
    with pytest.raises(PlyError, match="1 splats hold values that are not finite"):
        write_splats(tmp_path / "s.ply", broken)
    assert list(tmp_path.iterdir()) == []


def with_bytes(tmp_path, content):
    path = tmp_path / "hostile.ply"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-4], "the file holds"),
        (lambda raw: raw + b"\0", "the file holds"),
        (lambda raw: raw.replace(b"vertex 7", b"vertex 999999999999"), "need"),
        (lambda raw: raw.replace(b"vertex 7", b"vertex -7"), "count"),
        (lambda raw: raw.replace(b"vertex 7", b"vertex 0"), "no vertices"),
        (lambda raw: raw.replace(b"ply\n", b"obj\n", 1), "not a PLY"),
        (lambda raw: raw.replace(b"little", b"bigger"), "format"),
        (lambda raw: raw.replace(b"float rot_3", b"float rot3"), "missing"),
        (lambda raw: raw.replace(b"float rot_3", b"int32 rot_3"), "float32"),
        (lambda raw: raw.replace(b"float x", b"list uchar int x"), "scalar"),
        (lambda raw: raw.replace(b"float y", b"float x"), "twice"),
        (lambda raw: raw.replace(b"f_rest_8", b"fnrest_8"), "f_rest"),
        (lambda raw: raw[:40], "end_header"),
        (lambda raw: b"", "not a PLY"),
    ],
)
def test_reader_refuses_in_one_line(tmp_path, change, message):
    raw = write_splats(tmp_path / "s.ply", cloud()).read_bytes()
    with pytest.raises(PlyError, match=message) as caught:
        read_splats(with_bytes(tmp_path, change(raw)))
    assert "\n" not in str(caught.value)


def test_reader_refuses_nan(tmp_path):
    raw = bytearray(write_splats(tmp_path / "s.ply", cloud()).read_bytes())
    raw[-4:] = struct.pack("<f", float("nan"))
    with pytest.raises(PlyError, match="not finite"):
        read_splats(with_bytes(tmp_path, bytes(raw)))


def test_reader_refuses_what_is_no_file(tmp_path):
    with pytest.raises(PlyError, match="no such file"):
        read_splats(tmp_path)


def test_extra_columns_are_skipped(tmp_path):
    splats = cloud(count=2, coefficients=1)
    raw = write_splats(tmp_path / "s.ply", splats).read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    stride = len(body) // 2
    rows = [body[:stride] + b"\x07", body[stride:] + b"\x08"]
    content = header + b"property uchar label\nend_header\n" + b"".join(rows)
    after = read_splats(with_bytes(tmp_path, content))
    np.testing.assert_array_equal(after.quats, splats.quats)


@pytest.mark.parametrize(
    ("text", "order", "kind"),
    [(True, "=", "f4"), (False, ">", "f4"), (False, "<", "f8"), (False, ">", "f8")],
)
def test_splats_of_other_dialects(tmp_path, text, order, kind):
    """Columns shuffled, in another order of bytes, as text, as doubles."""
    before = cloud()
    table = PlyData.read(write_splats(tmp_path / "s.ply", before))["vertex"].data
    names = np.random.default_rng(1).permutation(table.dtype.names)
    other = np.zeros(len(table), [(name, kind) for name in names])
    for name in names:
        other[name] = table[name]
    path = tmp_path / "other.ply"
    element = PlyElement.describe(other, "vertex")
    PlyData([element], text, order, ["of another program", TURNED]).write(path)
    for name, leaf in read_splats(path)._asdict().items():
        assert leaf.dtype == getattr(before, name).dtype
        np.testing.assert_allclose(leaf, getattr(before, name), rtol=1e-6)
