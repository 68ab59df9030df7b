"""How many operations a program makes, by XLA's count, with its loops multiplied out.

XLA's analysis of a lowered program counts the body of a loop once. `scan`, and what is
made of it (`map`, `fori_loop` with known ends), says how often its body runs: its
missing turns are added here. A `while` of unknown length stays at one turn (the
rasteriser's, over the tiles' lists), and of a `switch` XLA counts the dearest branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun


class Flops(NamedTuple):
    """Operations of a program: with loops of known length multiplied out, and XLA's."""

    whole: float
    once: float


def program_flops(function: Callable, *args: Any) -> Flops:
    """The operations of function(*args), which is traced and not run.

    args: arrays or their shapes. Nothing is compiled: it is the program as written,
    before XLA removes what is computed twice.
    """
    closed = jax.make_jaxpr(function)(*args)
    return Flops(_whole(closed), _once(closed))


def _once(closed: ClosedJaxpr) -> float:
    lowered = jax.jit(jaxpr_as_fun(closed)).lower(*_shapes(closed))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))


def _shapes(closed: ClosedJaxpr) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]


def _whole(closed: ClosedJaxpr) -> float:
    # XLA's count has each body once, with the bodies inside of it once
    total = _once(closed)
    for body, length in _scans(closed.jaxpr):
        total += length * _whole(body) - _once(body)
    return total


def _scans(jaxpr: Jaxpr) -> Iterator[tuple[ClosedJaxpr, int]]:
    # the outermost scans of a program, inside of whatever is no scan
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["jaxpr"], equation.params["length"]
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from _scans(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from _scans(inner)
