"""PLY: the layout byte for byte, the round trip bit for bit, hostile headers."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsjax.exports.ply import (
    MAX_HEADER_BYTES,
    PlyError,
    parse_header,
    read_splats,
    write_splats,
)
from sdsjax.representations.gaussians import Gaussians


def cloud(count=7, coefficients=4, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return Gaussians(
        means=draw(count, 3),
        log_scales=draw(count, 3),
        quats=draw(count, 4),
        opacity_logits=draw(count),
        sh=draw(count, coefficients, 3),
        alive=jnp.ones(count, bool),
    )


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_round_trip_is_bit_exact(tmp_path, coefficients):
    before = cloud(coefficients=coefficients)
    after = read_splats(write_splats(tmp_path / "s.ply", before))
    for name, leaf in before._asdict().items():
        np.testing.assert_array_equal(leaf, getattr(after, name), err_msg=name)


def test_only_alive_rows_are_written(tmp_path):
    alive = jnp.asarray([True, False, True, False, False, True, True])
    before = cloud()._replace(alive=alive)
    after = read_splats(write_splats(tmp_path / "s.ply", before))
    np.testing.assert_array_equal(after.means, before.means[alive])
    assert after.alive.all()


def test_layout_read_independently(tmp_path):
    splats = cloud(count=3)
    raw = write_splats(tmp_path / "s.ply", splats).read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    assert all(line.startswith("property float ") for line in lines[3:])
    names = [line.split()[-1] for line in lines[3:]]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(9)]
    expected += ["opacity", "scale_0", "scale_1", "scale_2"]
    assert names == [*expected, "rot_0", "rot_1", "rot_2", "rot_3"]
    width = len(names)
    row = dict(zip(names, struct.unpack_from(f"<{width}f", body, 4 * width)))
    assert row["y"] == float(splats.means[1, 1])
    assert row["nx"] == row["ny"] == row["nz"] == 0.0
    assert row["f_dc_2"] == float(splats.sh[1, 0, 2])
    # Channel-major: three of red, then three of green.
    assert row["f_rest_1"] == float(splats.sh[1, 2, 0])
    assert row["f_rest_3"] == float(splats.sh[1, 1, 1])
    assert row["opacity"] == float(splats.opacity_logits[1])
    assert row["scale_2"] == float(splats.log_scales[1, 2])
    assert row["rot_0"] == float(splats.quats[1, 0])


def test_writer_refuses_nothing_and_nan(tmp_path):
    with pytest.raises(PlyError, match="no splat is alive"):
        write_splats(tmp_path / "s.ply", cloud()._replace(alive=jnp.zeros(7, bool)))
    broken = cloud()
    broken = broken._replace(means=broken.means.at[2, 1].set(jnp.nan))
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
        (lambda raw: raw.replace(b"vertex 7", b"vertex 0"), "the file holds"),
        (lambda raw: raw.replace(b"ply\n", b"obj\n", 1), "not a PLY"),
        (lambda raw: raw.replace(b"little", b"bigger"), "format"),
        (lambda raw: raw.replace(b"float rot_3", b"uchar rot3"), "missing"),
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


def test_header_is_capped():
    endless = b"ply\n" + b"comment x\n" * MAX_HEADER_BYTES
    with pytest.raises(PlyError, match="end_header"):
        parse_header(endless + b"end_header\n")


def test_extra_columns_are_skipped(tmp_path):
    splats = cloud(count=2, coefficients=1)
    raw = write_splats(tmp_path / "s.ply", splats).read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    stride = len(body) // 2
    rows = [body[:stride] + b"\x07", body[stride:] + b"\x08"]
    content = header + b"property uchar label\nend_header\n" + b"".join(rows)
    after = read_splats(with_bytes(tmp_path, content))
    np.testing.assert_array_equal(after.quats, splats.quats)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fuzzed_headers_raise_ply_error_or_parse(data):
    """Whatever the bytes: a Header that adds up, or one PlyError."""
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    lines += ["property float x", "property uchar a", "end_header", ""]
    raw = bytearray("\n".join(lines).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(raw)))
        junk = data.draw(st.binary(max_size=6))
        raw[at : at + data.draw(st.integers(0, 6))] = junk
    try:
        header = parse_header(bytes(raw))
    except PlyError:
        return
    assert header.offset <= len(raw)
    assert header.dtype.itemsize >= 1
    assert header.count >= 0
