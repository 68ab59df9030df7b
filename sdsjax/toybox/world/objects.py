"""The toybox's kinds as literal tables, its colours and its fixed paints.

A kind is a tuple of `Part`s in any unit and around any origin: `scene` centres it and
scales it to the unit ball. y is up, the front looks along +z, and +x is the object's
own left. Angles are degrees. Every kind's dominant part is painted "caption".
"""

from typing import NamedTuple

COLORS = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.12, 0.65, 0.15),
    "cyan": (0.10, 0.82, 0.85),
    "blue": (0.12, 0.25, 0.95),
    "purple": (0.50, 0.12, 0.75),
    "pink": (1.00, 0.50, 0.75),
    "white": (0.97, 0.97, 0.97),
}

# material 0 and 1 are the caption's two colours, these follow
CAPTION = "caption"
PAINTS = {
    "dark": (0.13, 0.13, 0.15),
    "grey": (0.62, 0.62, 0.64),
    "chalk": (0.96, 0.95, 0.92),
    "wood": (0.45, 0.28, 0.15),
    "carrot": (0.98, 0.48, 0.08),
    "glass": (0.55, 0.74, 0.88),
    "dough": (0.85, 0.65, 0.42),
}


class Part(NamedTuple):
    """One primitive of a kind.

    Fields:
        shape: a key of `primitives.DISTANCES`.
        size: its lengths, as listed there (trailing zeros may be left out).
        at: position (x, y, z).
        turn: degrees about x, then y, then z.
        paint: "caption" or a key of `PAINTS`.
        pair: also the mirror image across x = 0.
    """

    shape: str
    size: tuple[float, ...]
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    paint: str = CAPTION
    pair: bool = False


_FORWARD = (90, 0, 0)  # turns the axis y to z
_ACROSS = (0, 0, 90)  # turns the axis y to x
_LENGTHWISE = (0, -90, 0)  # turns x to z

# Kinds whose front, back, left and right all differ.
_DIRECTED = {
    "snowman": (
        Part("ellipsoid", (0.52, 0.5, 0.52), (0, -0.45, 0)),
        Part("ellipsoid", (0.36, 0.36, 0.36), (0, 0.27, 0)),
        Part("cone", (0.42, 0.42, 0.035), (0, 0.53, 0), paint="dark"),
        Part("cone", (0.25, 0.25, 0.17), (0, 0.7, 0), paint="dark"),
        Part("cone", (0.1, 0.02, 0.2), (0, 0.22, 0.5), _FORWARD, "carrot"),
        Part("ellipsoid", (0.065,) * 3, (0.15, 0.36, 0.31), paint="dark", pair=True),
        Part("ellipsoid", (0.07,) * 3, (0, -0.2, 0.46), paint="dark"),
        Part("ellipsoid", (0.07,) * 3, (0, -0.45, 0.52), paint="dark"),
        Part("cone", (0.04, 0.04, 0.24), (0.62, -0.18, 0), (0, 0, -55), "wood", True),
    ),
    "mug": (
        Part("tube", (0.5, 0.09, 0.52, 0.02)),
        Part("cone", (0.48, 0.48, 0.06), (0, -0.46, 0)),
        Part("cone", (0.45, 0.45, 0.4), (0, -0.07, 0), paint="wood"),
        Part("torus", (0.29, 0.085), (0.56, 0, 0), _FORWARD),
        Part("box", (0.2, 0.17, 0.05), (0, 0, 0.47), paint="dark"),
    ),
    "house": (
        Part("box", (0.52, 0.4, 0.5), (0, -0.3, 0)),
        Part("frustum", (0.66, 0.53, 0, 0.53, 0.27), (0, 0.36, 0), paint="dark"),
        Part("box", (0.09, 0.2, 0.09), (-0.36, 0.5, -0.2), paint="wood"),
        Part("box", (0.13, 0.24, 0.04), (0, -0.46, 0.5), paint="wood"),
        Part("box", (0.11, 0.11, 0.04), (0.33, -0.2, 0.5), paint="glass", pair=True),
        Part("box", (0.04, 0.13, 0.16), (0.52, -0.2, 0), paint="glass"),
    ),
    "car": (
        Part("box", (0.4, 0.17, 0.82, 0.08), (0, -0.12, 0)),
        Part("frustum", (0.36, 0.5, 0.28, 0.32, 0.14), (0, 0.18, -0.1), paint="glass"),
        Part("box", (0.3, 0.04, 0.34, 0.03), (0, 0.34, -0.1)),
        Part("cone", (0.2, 0.2, 0.09), (0.36, -0.27, 0.5), _ACROSS, "dark", True),
        Part("cone", (0.2, 0.2, 0.09), (0.36, -0.27, -0.5), _ACROSS, "dark", True),
        Part(
            "ellipsoid",
            (0.1, 0.09, 0.05),
            (0.25, -0.06, 0.81),
            (0, 0, 0),
            "chalk",
            True,
        ),
        Part("box", (0.36, 0.05, 0.05), (0, -0.23, 0.8), paint="dark"),
    ),
    "teapot": (
        Part("ellipsoid", (0.56, 0.45, 0.56), (0, -0.1, 0)),
        Part("cone", (0.36, 0.3, 0.06), (0, -0.5, 0)),
        Part("cone", (0.15, 0.07, 0.34), (0, 0.08, 0.66), (42, 0, 0)),
        Part("torus", (0.27, 0.065), (0, 0.0, -0.58), _ACROSS),
        Part("ellipsoid", (0.3, 0.12, 0.3), (0, 0.3, 0), paint="grey"),
        Part("ellipsoid", (0.09, 0.09, 0.09), (0, 0.46, 0), paint="dark"),
    ),
    "duck": (
        Part("ellipsoid", (0.42, 0.36, 0.58), (0, -0.3, -0.06)),
        Part("ellipsoid", (0.31, 0.31, 0.31), (0, 0.27, 0.26)),
        Part("ellipsoid", (0.16, 0.07, 0.2), (0, 0.2, 0.6), paint="carrot"),
        Part("ellipsoid", (0.06,) * 3, (0.16, 0.37, 0.49), paint="dark", pair=True),
        Part("cone", (0.2, 0.02, 0.2), (0, -0.1, -0.62), (-55, 0, 0)),
        Part(
            "ellipsoid", (0.08, 0.18, 0.32), (0.4, -0.24, -0.1), (12, 0, 0), pair=True
        ),
    ),
    "rocket": (
        Part("cone", (0.34, 0.34, 0.46, 0.03), (0, -0.14, 0)),
        Part("ellipsoid", (0.34, 0.62, 0.34), (0, 0.28, 0)),
        Part("cone", (0.2, 0.02, 0.18, 0.01), (0, 0.84, 0), paint="grey"),
        Part(
            "frustum",
            (0.2, 0.05, 0.05, 0.05, 0.3, -0.15),
            (0.48, -0.5, 0),
            paint="dark",
            pair=True,
        ),
        Part(
            "frustum",
            (0.2, 0.05, 0.05, 0.05, 0.3, -0.15),
            (0, -0.5, -0.48),
            (0, 90, 0),
            "dark",
        ),
        Part("cone", (0.24, 0.18, 0.1), (0, -0.68, 0), paint="dark"),
        Part("cone", (0.19, 0.19, 0.05), (0, 0.02, 0.33), _FORWARD, "grey"),
        Part("ellipsoid", (0.14, 0.14, 0.07), (0, 0.02, 0.37), paint="glass"),
    ),
    "chair": (
        Part("box", (0.42, 0.07, 0.42, 0.02), (0, -0.1, 0)),
        Part("box", (0.42, 0.42, 0.06, 0.02), (0, 0.36, -0.36)),
        Part(
            "cone", (0.055, 0.055, 0.34), (0.34, -0.48, 0.34), paint="wood", pair=True
        ),
        Part(
            "cone", (0.055, 0.055, 0.34), (0.34, -0.48, -0.34), paint="wood", pair=True
        ),
    ),
    "robot": (
        Part("box", (0.42, 0.39, 0.26, 0.04), (0, -0.1, 0)),
        Part("box", (0.3, 0.23, 0.24, 0.04), (0, 0.5, 0)),
        Part("box", (0.24, 0.1, 0.07), (0, 0.53, 0.24), paint="dark"),
        Part("ellipsoid", (0.08,) * 3, (0.11, 0.53, 0.29), paint="chalk", pair=True),
        Part("box", (0.22, 0.14, 0.04), (0, -0.1, 0.25), paint="grey"),
        Part("cone", (0.025, 0.025, 0.1), (0, 0.82, 0), paint="grey"),
        Part("ellipsoid", (0.065,) * 3, (0, 0.93, 0), paint="dark"),
        Part(
            "cone", (0.09, 0.09, 0.32, 0.08), (0.5, -0.15, 0), paint="grey", pair=True
        ),
        Part(
            "box", (0.15, 0.16, 0.27, 0.03), (0.2, -0.62, 0.1), paint="dark", pair=True
        ),
    ),
    "cat": (
        Part("ellipsoid", (0.36, 0.48, 0.4), (0, -0.35, -0.08)),
        Part("ellipsoid", (0.38, 0.33, 0.33), (0, 0.3, 0.1)),
        Part("cone", (0.14, 0.01, 0.15), (0.22, 0.63, 0.08), (0, 0, -14), pair=True),
        Part(
            "ellipsoid", (0.07, 0.08, 0.06), (0.15, 0.37, 0.39), paint="dark", pair=True
        ),
        Part("ellipsoid", (0.15, 0.1, 0.1), (0, 0.19, 0.39), paint="chalk"),
        Part("ellipsoid", (0.05,) * 3, (0, 0.25, 0.47), paint="dark"),
        Part("cone", (0.1, 0.1, 0.3, 0.09), (0.15, -0.55, 0.3), pair=True),
        Part("cone", (0.07, 0.07, 0.36, 0.07), (0.26, -0.46, -0.42), (-30, 0, -25)),
    ),
    "fish": (
        Part("ellipsoid", (0.28, 0.4, 0.58), (0, 0, 0.15)),
        Part("frustum", (0.05, 0.06, 0.04, 0.42, 0.24), (0, 0, -0.58), (-90, 0, 0)),
        Part(
            "frustum", (0.3, 0.04, 0.1, 0.04, 0.12, -0.12), (0, 0.42, 0.1), _LENGTHWISE
        ),
        Part(
            "ellipsoid", (0.07, 0.11, 0.11), (0.18, 0.1, 0.46), paint="chalk", pair=True
        ),
        Part("ellipsoid", (0.055,) * 3, (0.22, 0.1, 0.49), paint="dark", pair=True),
        Part("ellipsoid", (0.1, 0.05, 0.07), (0, -0.12, 0.69), paint="dark"),
        Part(
            "ellipsoid", (0.05, 0.1, 0.18), (0.27, -0.1, 0.05), (25, 0, 0), "grey", True
        ),
    ),
    "airplane": (
        Part("ellipsoid", (0.19, 0.19, 0.85)),
        Part("box", (0.9, 0.04, 0.19, 0.02), (0, -0.03, 0.1)),
        Part("box", (0.36, 0.03, 0.11, 0.02), (0, 0.06, -0.7)),
        Part(
            "frustum",
            (0.18, 0.035, 0.08, 0.035, 0.19, -0.1),
            (0, 0.24, -0.66),
            _LENGTHWISE,
        ),
        Part("ellipsoid", (0.13, 0.14, 0.22), (0, 0.13, 0.35), paint="glass"),
        Part("cone", (0.09, 0.02, 0.09), (0, 0, 0.88), _FORWARD, "grey"),
        Part("box", (0.045, 0.34, 0.025), (0, 0, 0.86), (0, 0, 25), "dark"),
    ),
    "sailboat": (
        Part(
            "frustum",
            (0.42, 0.12, 0.75, 0.3, 0.17, 0.08),
            (0, -0.62, 0),
            _LENGTHWISE,
            "wood",
        ),
        Part("cone", (0.03, 0.03, 0.66), (0, 0.15, 0.06), paint="wood"),
        Part(
            "frustum",
            (0.36, 0.03, 0.02, 0.03, 0.53, 0.34),
            (0.22, 0.2, -0.22),
            (0, -128, 0),
        ),
        Part(
            "frustum",
            (0.25, 0.03, 0.02, 0.03, 0.4, -0.23),
            (-0.1, 0.08, 0.3),
            (0, -118, 0),
            "chalk",
        ),
        Part("box", (0.015, 0.06, 0.11), (0, 0.8, -0.05), paint="carrot"),
    ),
    "truck": (
        Part("box", (0.4, 0.42, 0.56, 0.02), (0, 0.16, -0.3)),
        Part("box", (0.36, 0.28, 0.22, 0.03), (0, 0.0, 0.52), paint="grey"),
        Part("box", (0.3, 0.11, 0.04), (0, 0.12, 0.73), paint="glass"),
        Part("box", (0.04, 0.1, 0.12), (0.35, 0.12, 0.55), paint="glass", pair=True),
        Part("box", (0.34, 0.07, 0.8), (0, -0.32, -0.05), paint="dark"),
        Part("cone", (0.2, 0.2, 0.09), (0.34, -0.38, 0.5), _ACROSS, "dark", True),
        Part("cone", (0.2, 0.2, 0.09), (0.34, -0.38, -0.45), _ACROSS, "dark", True),
        Part(
            "ellipsoid",
            (0.08, 0.08, 0.04),
            (0.23, -0.15, 0.74),
            paint="chalk",
            pair=True,
        ),
    ),
    "mailbox": (
        Part("box", (0.34, 0.16, 0.52), (0, 0.18, 0)),
        Part("cone", (0.34, 0.34, 0.52), (0, 0.34, 0), _FORWARD),
        Part("box", (0.28, 0.13, 0.03), (0, 0.2, 0.52), paint="grey"),
        Part("cone", (0.28, 0.28, 0.03), (0, 0.34, 0.52), _FORWARD, "grey"),
        Part("ellipsoid", (0.07,) * 3, (0, 0.42, 0.57), paint="dark"),
        Part("box", (0.1, 0.42, 0.1), (0, -0.4, 0), paint="wood"),
        Part("box", (0.03, 0.2, 0.04), (0.37, 0.5, 0.1), paint="dark"),
        Part("box", (0.03, 0.08, 0.14), (0.37, 0.68, 0.2), paint="carrot"),
    ),
    "television": (
        Part("box", (0.72, 0.46, 0.24, 0.05), (0, -0.1, 0.06)),
        Part("box", (0.46, 0.3, 0.2, 0.04), (0, -0.12, -0.28), paint="grey"),
        Part("box", (0.48, 0.35, 0.04, 0.03), (-0.15, -0.1, 0.29), paint="dark"),
        Part("ellipsoid", (0.4, 0.28, 0.05), (-0.15, -0.1, 0.31), paint="glass"),
        Part("cone", (0.09, 0.09, 0.04), (0.53, 0.1, 0.31), _FORWARD, "dark"),
        Part("cone", (0.09, 0.09, 0.04), (0.53, -0.2, 0.31), _FORWARD, "dark"),
        Part("cone", (0.025, 0.025, 0.27), (0.2, 0.56, 0), (0, 0, -35), "grey", True),
        Part("cone", (0.06, 0.04, 0.12), (0.5, -0.65, 0), paint="wood", pair=True),
    ),
    "clock": (
        Part("cone", (0.64, 0.64, 0.2, 0.03), (0, -0.05, 0), _FORWARD),
        Part("cone", (0.5, 0.46, 0.08), (0, -0.05, 0.2), _FORWARD, "chalk"),
        Part("box", (0.16, 0.06, 0.08), (0, -0.05, -0.26), paint="dark"),
        Part("box", (0.04, 0.19, 0.03), (0, 0.13, 0.28), paint="dark"),
        Part("box", (0.15, 0.04, 0.03), (0.13, -0.05, 0.28), paint="dark"),
        Part("ellipsoid", (0.23, 0.2, 0.2), (0.4, 0.62, 0), (0, 0, -33), "grey", True),
        Part("cone", (0.05, 0.09, 0.13), (0.42, -0.64, 0), (0, 0, 33), "dark", True),
    ),
    "sofa": (
        Part("box", (0.8, 0.18, 0.4, 0.04), (0, -0.2, 0)),
        Part("box", (0.8, 0.4, 0.13, 0.05), (0, 0.1, -0.33)),
        Part("box", (0.14, 0.3, 0.42, 0.06), (0.74, -0.08, 0), pair=True),
        Part("box", (0.29, 0.08, 0.3, 0.05), (0.3, 0.02, 0.1), paint="grey", pair=True),
        Part("cone", (0.06, 0.06, 0.1), (0.7, -0.45, 0.3), paint="wood", pair=True),
        Part("cone", (0.06, 0.06, 0.1), (0.7, -0.45, -0.3), paint="wood", pair=True),
    ),
}

# Kinds that look the same from the front and from the back.
_SYMMETRIC = {
    "ball": (Part("ellipsoid", (1, 1, 1)),),
    "cube": (Part("box", (1, 1, 1, 0.04)),),
    "cone": (Part("cone", (0.75, 0.02, 0.9, 0.02)),),
    "cylinder": (Part("cone", (0.7, 0.7, 0.8, 0.03)),),
    "donut": (
        Part("torus", (0.62, 0.29), (0, 0.05, 0)),
        Part("torus", (0.62, 0.28), (0, -0.09, 0), paint="dough"),
    ),
    "pyramid": (Part("frustum", (0.8, 0.8, 0, 0, 0.65)),),
    "mushroom": (
        Part("cone", (0.8, 0.36, 0.34, 0.17), (0, 0.32, 0)),
        Part("cone", (0.28, 0.22, 0.4, 0.04), (0, -0.34, 0), paint="chalk"),
        Part("ellipsoid", (0.2, 0.06, 0.2), (0, 0.65, 0), paint="chalk"),
        Part("ellipsoid", (0.17, 0.16, 0.07), (0, 0.36, 0.56), (-33, 0, 0), "chalk"),
        Part("ellipsoid", (0.17, 0.16, 0.07), (0, 0.36, -0.56), (33, 0, 0), "chalk"),
        Part(
            "ellipsoid", (0.07, 0.16, 0.17), (0.56, 0.36, 0), (0, 0, 33), "chalk", True
        ),
    ),
    "tree": (
        Part("cone", (0.6, 0.15, 0.26), (0, -0.25, 0)),
        Part("cone", (0.48, 0.1, 0.24), (0, 0.14, 0)),
        Part("cone", (0.36, 0.01, 0.28), (0, 0.55, 0)),
        Part("cone", (0.13, 0.11, 0.22), (0, -0.68, 0), paint="wood"),
    ),
    "table": (
        Part("box", (0.85, 0.08, 0.85, 0.03), (0, 0.3, 0)),
        Part("box", (0.09, 0.35, 0.09), (0.68, -0.1, 0.68), pair=True),
        Part("box", (0.09, 0.35, 0.09), (0.68, -0.1, -0.68), pair=True),
    ),
    "vase": (
        Part("ellipsoid", (0.5, 0.52, 0.5), (0, -0.25, 0)),
        Part("cone", (0.3, 0.17, 0.2), (0, 0.28, 0)),
        Part("cone", (0.17, 0.34, 0.16), (0, 0.6, 0)),
        Part("cone", (0.32, 0.32, 0.02), (0, 0.75, 0), paint="dark"),
        Part("tube", (0.36, 0.07, 0.06, 0.02), (0, 0.75, 0)),
        Part("cone", (0.36, 0.3, 0.06), (0, -0.74, 0)),
    ),
    "dumbbell": (
        Part("cone", (0.08, 0.08, 0.6), (0, 0, 0), _ACROSS, "grey"),
        Part("cone", (0.48, 0.48, 0.13, 0.04), (0.6, 0, 0), _ACROSS, pair=True),
        Part("cone", (0.32, 0.32, 0.1, 0.03), (0.82, 0, 0), _ACROSS, pair=True),
    ),
    "lamp": (
        Part("cone", (0.6, 0.34, 0.32), (0, 0.42, 0)),
        Part("cone", (0.05, 0.05, 0.5), (0, -0.3, 0), paint="grey"),
        Part("cone", (0.36, 0.3, 0.07, 0.02), (0, -0.75, 0), paint="dark"),
        Part("ellipsoid", (0.16, 0.18, 0.16), (0, 0.14, 0), paint="chalk"),
    ),
}

KINDS = _DIRECTED | _SYMMETRIC
DIRECTED_KINDS = tuple(_DIRECTED)
BASES = ("cube", "cylinder", "table")
