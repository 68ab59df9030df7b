"""PLY dialects: a table of what programs write, and what no reader may believe."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from sdsjax.files.ply_tables import PlyError, parse_header, read_vertices
from sdsjax.representations.gaussians.given_points import read_points

POINTS = np.array([[0.125, 0.25, 0.5], [-0.5, 0.75, -0.625], [1, 0, -1], [0, 1, 0]])
RGB = np.array([[255, 0, 51], [0, 255, 0], [102, 153, 204], [0, 0, 0]])
XYZ = tuple("xyz")
COLOURS = ("red", "green", "blue")


def vertices(names=(*XYZ, *COLOURS), kinds="f4", colours="u1", scale=1):
    """A structured array as plyfile wants it, the columns in the order of `names`."""
    kind = {**dict.fromkeys(XYZ, kinds), **dict.fromkeys(("nx", "ny", "nz"), "f4")}
    table = np.zeros(4, [(n, kind.get(n, colours)) for n in names])
    for i, name in enumerate(XYZ):
        table[name] = POINTS[:, i]
    for name in names:
        if name not in kind and name[-1] != "a":
            at = [c in name for c in COLOURS].index(True)
            table[name] = RGB[:, at] * scale
    return table


def faces(*corners):
    table = np.zeros(len(corners), [("vertex_indices", object)])
    for i, corner in enumerate(corners):
        table[i] = (np.array(corner, "i4"),)
    return PlyElement.describe(table, "face", val_types={"vertex_indices": "i4"})


def edges():
    return PlyElement.describe(np.ones(3, [("a", "i4"), ("b", "f8")]), "edge")


def bytes_of(*elements, text=False, order="<", comments=()):
    stream = io.BytesIO()
    PlyData([*elements], text, order, list(comments)).write(stream)
    return stream.getvalue()


def vertex(*args, **kwargs):
    return PlyElement.describe(vertices(*args, **kwargs), "vertex")


def by_trimesh(solid, encoding="binary_little_endian"):
    return solid.export(file_type="ply", encoding=encoding)


def cloud_of_trimesh():
    return trimesh.PointCloud(POINTS, colors=np.c_[RGB, np.full(4, 255)])


def mesh_of_trimesh():
    return trimesh.Trimesh(
        POINTS, [[0, 1, 2], [1, 2, 3]], vertex_colors=RGB, process=False
    )


def newlines(raw, end):
    head, body = raw.split(b"end_header\n", 1)
    return (head + b"end_header\n").replace(b"\n", end) + body


TRIANGLE, QUAD = [0, 1, 2], [0, 1, 2, 3]
DIALECTS = {
    "binary": lambda: bytes_of(vertex()),
    "big-endian": lambda: bytes_of(vertex(), order=">"),
    "ascii": lambda: bytes_of(vertex(), text=True),
    "ascii, CRLF": lambda: bytes_of(vertex(), text=True).replace(b"\n", b"\r\n"),
    "CRLF header, binary": lambda: newlines(bytes_of(vertex()), b"\r\n"),
    "CR header, binary": lambda: newlines(bytes_of(vertex()), b"\r"),
    "doubles": lambda: bytes_of(vertex(kinds="f8")),
    "big-endian doubles": lambda: bytes_of(vertex(kinds="f8"), order=">"),
    "shuffled": lambda: bytes_of(vertex(names=("blue", "z", "red", "x", "green", "y"))),
    "normals between": lambda: bytes_of(
        vertex(names=(*XYZ, "nx", "ny", "nz", *COLOURS))
    ),
    "alpha": lambda: bytes_of(vertex(names=(*XYZ, *COLOURS, "alpha"))),
    "comments": lambda: bytes_of(vertex(), comments=["by a program", "end_header?"]),
    "a comment in Unicode": lambda: bytes_of(vertex()).replace(
        b"element", "comment Größe\nelement".encode(), 1
    ),
    "obj_info": lambda: bytes_of(vertex()).replace(
        b"element", b"obj_info a scan\nelement", 1
    ),
    "spaces at the ends": lambda: bytes_of(vertex()).replace(b"float x", b"float  x "),
    "sized type names": lambda: (
        bytes_of(vertex()).replace(b"float", b"float32").replace(b"uchar", b"uint8")
    ),
    "float colours to 1": lambda: bytes_of(vertex(colours="f4", scale=1 / 255)),
    "float colours to 255": lambda: bytes_of(vertex(colours="f4")),
    "double colours": lambda: bytes_of(vertex(colours="f8", scale=1 / 255)),
    "16-bit colours": lambda: bytes_of(vertex(colours="u2", scale=257)),
    "bytes in ints": lambda: bytes_of(vertex(colours="i4")),
    "diffuse_red": lambda: bytes_of(
        vertex(names=(*XYZ, "diffuse_red", "diffuse_green", "diffuse_blue"))
    ),
    "a mesh": lambda: bytes_of(vertex(), faces(TRIANGLE, TRIANGLE)),
    "a mesh, ascii": lambda: bytes_of(vertex(), faces(TRIANGLE, QUAD), text=True),
    "a mesh of triangles and quads": lambda: bytes_of(
        vertex(), faces(TRIANGLE, QUAD, TRIANGLE)
    ),
    "faces before vertices": lambda: bytes_of(faces(QUAD, TRIANGLE), vertex()),
    "faces before vertices, ascii": lambda: bytes_of(
        faces(QUAD, TRIANGLE), vertex(), text=True
    ),
    "big-endian mesh": lambda: bytes_of(vertex(), faces(QUAD, TRIANGLE), order=">"),
    "another element before": lambda: bytes_of(edges(), vertex()),
    "another element after": lambda: bytes_of(vertex(), edges(), faces(QUAD)),
    "an empty element": lambda: bytes_of(vertex(), faces()),
    "trimesh's cloud": lambda: by_trimesh(cloud_of_trimesh()),
    "trimesh's cloud, ascii": lambda: by_trimesh(cloud_of_trimesh(), "ascii"),
    "trimesh's mesh": lambda: by_trimesh(mesh_of_trimesh()),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_its_points_and_colours(tmp_path, dialect):
    path = tmp_path / "cloud.ply"
    path.write_bytes(DIALECTS[dialect]())
    found = read_points(path)
    np.testing.assert_array_equal(found[:, :3], POINTS.astype(np.float32))
    np.testing.assert_allclose(found[:, 3:], RGB / 255, atol=1e-6)


def test_plyfile_reads_the_same_numbers(tmp_path):
    """Columns of every type and both orders, against the other reader."""
    kinds = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]
    rng = np.random.default_rng(0)
    table = np.zeros(9, [(n, "f4") for n in XYZ] + [("c" + k, k) for k in kinds])
    for name in table.dtype.names:
        table[name] = rng.integers(0, 120, 9)
    table["cf8"] += np.pi
    for order in "<>":
        path = tmp_path / "table.ply"
        path.write_bytes(bytes_of(PlyElement.describe(table, "vertex"), order=order))
        found, theirs = read_vertices(path).columns, PlyData.read(path)["vertex"]
        assert list(found) == list(table.dtype.names)
        for name, column in found.items():
            np.testing.assert_array_equal(column, theirs[name])
            assert column.dtype.isnative


def cut(raw, count):
    return raw[:-count]


MESH = DIALECTS["a mesh of triangles and quads"]
BAD = {
    "empty": (b"", "not a PLY file"),
    "another format": (b"solid x\n", "not a PLY file"),
    "a header alone": (DIALECTS["binary"]()[:60], "end_header"),
    "truncated": (cut(DIALECTS["binary"](), 3), "need 60 bytes, the file holds 57"),
    "too long": (DIALECTS["binary"]() + b"\0", "need 60 bytes, the file holds 61"),
    "truncated, ascii": (cut(DIALECTS["ascii"](), 30), "lines|does not hold its 6"),
    "truncated mesh": (cut(MESH(), 2), "the file holds"),
    "no vertices": (
        b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\n"
        b"property float y\nproperty float z\nend_header\n",
        "holds no vertices",
    ),
    "no vertex": (bytes_of(edges()), "no element 'vertex'"),
    "no z": (DIALECTS["binary"]().replace(b"float z", b"float w"), "no scalar columns"),
    "a list named x": (
        DIALECTS["ascii"]().replace(b"float x", b"list uchar int x"),
        "no scalar columns",
    ),
    "no number": (DIALECTS["ascii"]().replace(b"0.125", b"zero "), "rows cannot|hold"),
    "binary called ascii": (
        DIALECTS["binary"]().replace(b"binary_little_endian", b"ascii"),
        "ASCII",
    ),
    "a format that is none": (
        DIALECTS["binary"]().replace(b"little", b"middle"),
        "format must be",
    ),
    "a type that is none": (
        DIALECTS["binary"]().replace(b"float y", b"string y"),
        "not a property",
    ),
    "a column twice": (DIALECTS["binary"]().replace(b"float y", b"float x"), "twice"),
    "nan": (
        DIALECTS["binary"]().replace(
            struct.pack("<f", 0.125), struct.pack("<f", float("nan"))
        ),
        "not finite",
    ),
    "a list of negative length": (
        MESH()
        .replace(b"list uchar", b"list char")
        .replace(b"\x04" + struct.pack("<i", 0), b"\xff" + struct.pack("<i", 0)),
        "negative",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_cloud_is_refused_in_one_line(tmp_path, kind):
    content, message = BAD[kind]
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(PlyError, match=message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("dialect", ["binary", "ascii", "a mesh"])
def test_a_promise_of_rows_allocates_nothing(tmp_path, dialect):
    path = tmp_path / "bomb.ply"
    raw = DIALECTS[dialect]().replace(b"vertex 4", b"vertex 99999999999")
    path.write_bytes(raw.replace(b"face 2", b"face 99999999999"))
    good = tmp_path / "good.ply"
    good.write_bytes(DIALECTS["binary"]())
    read_points(good)  # what is imported once is not counted
    tracemalloc.start()
    with pytest.raises(PlyError, match="need"):
        read_points(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_fuzzed_files_raise_ply_error_or_parse(tmp_path_factory, data):
    """Whatever the bytes: a table that adds up, or one PlyError of one line."""
    raw = bytearray(DIALECTS[data.draw(st.sampled_from(list(DIALECTS)))]())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        junk = data.draw(st.binary(max_size=6))
        raw[at : at + data.draw(st.integers(0, 6))] = junk
    path = tmp_path_factory.getbasetemp() / "fuzzed.ply"
    path.write_bytes(raw)
    try:
        found = read_points(path)
    except PlyError as error:
        said = str(error)
    else:
        said = ""
        assert found.ndim == 2
        assert found.shape[1] in (3, 6)
        assert np.isfinite(found).all()
    assert "\n" not in said


def test_header_is_capped():
    endless = b"ply\n" + b"comment x\n" * (1 << 16)
    with pytest.raises(PlyError, match="end_header"):
        parse_header(endless + b"end_header\n")
