"""The vertices of a PLY file of any dialect, as a table of columns.

ASCII or binary of either byte order; lines of the header ended by LF, CRLF or CR; other
elements before or after `vertex` (a mesh's faces among them), comments, columns in any
order. trimesh parses the values. It would allocate what a header promises, so that
here, before it is asked, the header is capped and every element's size is checked
against the bytes that are there; it is handed the `vertex` element alone. The format:
G. Turk, "The PLY Polygon File Format", 1994.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAX_HEADER_BYTES = 1 << 16
# PLY's names of a type -> numpy's, without the byte order.
TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
# "ascii" or the byte order of the values, as numpy writes it
FORMATS = {
    "ascii": "ascii",
    "binary_little_endian": "<",
    "binary_big_endian": ">",
}


# The comment of a file whose y is down, ours turned half a turn about x, as
# exports/ply.py writes splats; read to the letter.
TURNED = "sdsjax: y down, turned half a turn about x from y up, front +z"


class PlyError(ValueError):
    """A PLY file, or what should become one, cannot be used; one line."""


class Property(NamedTuple):
    """One property of an element; count_type: of a list's length, "" for a scalar."""

    name: str
    type: str
    count_type: str = ""


class Element(NamedTuple):
    """An element of a PLY file: its name, its rows, its properties in file order."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def listed(self) -> bool:
        """Whether rows have lists, and so no one length."""
        return any(p.count_type for p in self.properties)

    @property
    def stride(self) -> int:
        """The bytes of a row; of one with lists, the fewest that it may have."""
        return sum(np.dtype(p.count_type or p.type).itemsize for p in self.properties)


class Header(NamedTuple):
    """What a PLY header says.

    format: "ascii", "<" or ">"; elements in file order; comments without their keyword;
    offset: bytes before the first row.
    """

    format: str
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    offset: int


class Table(NamedTuple):
    """The `vertex` element: columns by name, each [n], and the file's comments."""

    columns: dict[str, np.ndarray]
    comments: tuple[str, ...]


def parse_header(head: bytes) -> Header:
    """Reads a PLY header from the first bytes of a file (at most MAX_HEADER_BYTES).

    Raises PlyError.
    """
    head = head[:MAX_HEADER_BYTES]
    begun = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head)
    if begun is None:
        raise PlyError("not a PLY file: it does not begin with 'ply' and a newline")
    newline = begun[1]
    closed = re.compile(newline + rb"end_header[ \t]*" + newline).search(head)
    if closed is None:
        raise PlyError(f"no 'end_header' in the first {MAX_HEADER_BYTES} bytes")
    try:
        # a program's own name or a path in a comment may hold any letter
        text = head[begun.end() : closed.start()].decode("utf-8")
    except UnicodeDecodeError:
        raise PlyError("the header is no text") from None
    lines = [line.strip() for line in text.split(newline.decode())]
    comments = [_rest(line) for line in lines if line.split(" ")[0] == "comment"]
    lines = [n for n in lines if n and n.split()[0] not in ("comment", "obj_info")]
    said = re.fullmatch(r"format\s+(\w+)\s+1\.0", lines[0] if lines else "")
    if said is None or said[1] not in FORMATS:
        raise PlyError(f"the format must be one of {', '.join(FORMATS)}, each 1.0")
    return Header(FORMATS[said[1]], _elements(lines[1:]), tuple(comments), closed.end())


def _rest(line: str) -> str:
    return line.split(" ", 1)[-1].strip()


def _elements(lines: list[str]) -> tuple[Element, ...]:
    """Reads the lines of elements and properties. Raises PlyError."""
    elements: list[Element] = []
    for line in lines:
        words = line.split()
        if words[0] == "element":
            if not re.fullmatch(r"element\s+\w+\s+[0-9]{1,12}", line):
                raise PlyError(f"not an element with its count: {line[:60]!r}")
            if any(e.name == words[1] for e in elements):
                raise PlyError(f"the element {words[1][:60]!r} appears twice")
            elements.append(Element(words[1], int(words[2]), ()))
            continue
        if not elements:
            raise PlyError(f"the first element is missing before {line[:60]!r}")
        found, last = _property(words), elements[-1]
        if found is None:
            raise PlyError(f"not a property: {line[:60]!r}")
        if any(p.name == found.name for p in last.properties):
            raise PlyError(f"the property {found.name[:60]!r} appears twice")
        elements[-1] = last._replace(properties=(*last.properties, found))
    return tuple(elements)


def _property(words: list[str]) -> Property | None:
    if words[0] != "property":
        return None
    if len(words) == 3 and words[1] in TYPES:
        return Property(words[2], TYPES[words[1]])
    if len(words) == 5 and words[1] == "list" and {*words[2:4]} <= {*TYPES}:
        if TYPES[words[2]][0] == "f":
            return None
        return Property(words[4], TYPES[words[3]], TYPES[words[2]])
    return None


def read_vertices(path: str | os.PathLike) -> Table:
    """Reads the `vertex` element of a PLY file; columns that are lists are left out.

    There is at least one row. Raises PlyError, in one line, for anything that is not
    such a file; nothing is allocated before the sizes agree.
    """
    path = Path(path)
    if not path.is_file():
        raise PlyError(f"{path}: no such file")
    try:
        with open(path, "rb") as stream:
            header = parse_header(stream.read(MAX_HEADER_BYTES))
            vertex = _vertex(header)
            left = path.stat().st_size - header.offset
            _check_sizes(header, left)
            stream.seek(header.offset)
            body = stream.read()
        rows = _text_rows if header.format == "ascii" else _binary_rows
        columns = _parsed(header.format, vertex, rows(header, body))
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None
    return Table(columns, header.comments)


def _vertex(header: Header) -> Element:
    vertex = next((e for e in header.elements if e.name == "vertex"), None)
    if vertex is None:
        names = ", ".join(e.name for e in header.elements)
        raise PlyError(f"no element 'vertex' with a count among {names[:60] or 'none'}")
    if not vertex.count:
        raise PlyError("it holds no vertices: the file has 0 of them")
    names = [p.name for p in vertex.properties]
    if not {"x", "y", "z"} <= {p.name for p in vertex.properties if not p.count_type}:
        raise PlyError(
            f"no scalar columns x, y, z among {', '.join(names[:8])[:90] or 'none'}"
        )
    return vertex


def _check_sizes(header: Header, left: int) -> None:
    """Raises PlyError where a header promises more than the bytes that are there."""
    for element in header.elements:
        # in ASCII a number and what separates it take two bytes; the last ends the file
        fewest = element.count * element.stride
        if header.format == "ascii":
            fewest = 2 * element.count * len(element.properties) - 1
        exact = header.format != "ascii" and len(header.elements) == 1
        if fewest > left or (exact and not element.listed and fewest != left):
            raise PlyError(
                f"{element.count} rows of {element.name!r} need {fewest} bytes, the "
                f"file holds {left}"
            )


def _binary_rows(header: Header, body: bytes) -> bytes:
    """Cuts the `vertex` rows out of the rows of all elements. Raises PlyError."""
    at, rows = 0, b""
    for element in header.elements:
        end = at + element.count * element.stride
        if element.listed:
            end = _end_of_lists(header.format, element, body, at)
        if element.name == "vertex":
            rows = body[at:end]
        at = end
    if at != len(body):
        raise PlyError(f"the elements need {at} bytes, the file holds {len(body)}")
    return rows


def _end_of_lists(order: str, element: Element, body: bytes, at: int) -> int:
    """Returns where the rows of an element with lists end: each says its own length."""
    steps = [
        (np.dtype(p.type).itemsize, np.dtype(order + p.count_type).itemsize, p)
        if p.count_type
        else (np.dtype(p.type).itemsize, 0, p)
        for p in element.properties
    ]
    byte_order = "little" if order == "<" else "big"
    for _ in range(element.count):
        for size, counted, known in steps:
            if not counted:
                at += size
                continue
            signed = known.count_type[0] == "i"
            number = int.from_bytes(body[at : at + counted], byte_order, signed=signed)
            if number < 0:
                raise PlyError(f"a list of {element.name!r} has a negative length")
            at += counted + number * size
        if at > len(body):
            raise PlyError(
                f"the lists of {element.name!r} run past the {len(body)} bytes that "
                "the file holds"
            )
    return at


def _text_rows(header: Header, body: bytes) -> bytes:
    """Cuts the `vertex` lines out of the lines of all elements. Raises PlyError."""
    try:
        lines = body.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise PlyError("the rows are not ASCII text, as the header says") from None
    lines = [line for line in lines if line.strip()]
    total = sum(e.count for e in header.elements)
    if len(lines) != total:
        raise PlyError(f"the elements need {total} lines, the file holds {len(lines)}")
    at = 0
    for element in header.elements:
        if element.name == "vertex":
            lines = lines[at : at + element.count]
            break
        at += element.count
    wide = len(element.properties)
    if not element.listed and any(len(line.split()) != wide for line in lines):
        raise PlyError(f"a row of 'vertex' does not hold its {wide} numbers")
    return "\n".join([*lines, ""]).encode()


def _parsed(order: str, vertex: Element, rows: bytes) -> dict[str, np.ndarray]:
    """Has trimesh parse rows that fit their element. Raises PlyError."""
    import trimesh.exchange.ply

    written = {kind: name for name, kind in TYPES.items()}
    said = next(name for name, kind in FORMATS.items() if kind == order)
    lines = ["ply", f"format {said} 1.0", f"element vertex {vertex.count}"]
    for name, kind, count in vertex.properties:
        listed = f"list {written[count]} " if count else ""
        lines.append(f"property {listed}{written[kind]} {name}")
    stream = io.BytesIO("\n".join([*lines, "end_header", ""]).encode() + rows)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy's, on text that is no number
            read = trimesh.exchange.ply.load_ply(stream, skip_materials=True)
        data = read["metadata"]["_ply_raw"]["vertex"]["data"]
        found = {
            p.name: np.asarray(data[p.name]).reshape(-1)
            for p in vertex.properties
            if not p.count_type
        }
    # A parser of somebody else's raises anything for rows that are no numbers.
    except Exception as error:
        text = " ".join(str(error).split())[:120]
        raise PlyError(f"its rows cannot be read: {text}") from None
    for name, column in found.items():
        if column.shape != (vertex.count,) or column.dtype.kind not in "iuf":
            raise PlyError(f"column {name!r} does not hold {vertex.count} numbers")
    return {k: v.astype(v.dtype.newbyteorder("=")) for k, v in found.items()}
