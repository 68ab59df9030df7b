"""What a run calls now and then, and at its end, is compiled while it takes its steps.

On a CPU steps of the default job keep one and a half of two cores busy; another thread
compiles previews, turntable and scores meanwhile, as the run itself would when it calls
them: JAX finds the programs then. Nothing that a step reads or writes is touched, and
what goes wrong here goes wrong again where it is called, and is reported there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

import jax

from sdsjax.backend import target

# A run that has fewer steps left is at its end before the programs are compiled.
LEAST_STEPS = 50


class Ahead:
    """A thread that does some work ahead; waiting for one without any is free."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()

    @property
    def begun(self) -> bool:
        """Tells whether tasks were given."""
        return self._thread is not None

    def begin(self, tasks: Iterable[Callable[[], object]]) -> None:
        """Has tasks found and done one after the other; is called once."""

        def work():
            with contextlib.suppress(Exception):
                for task in tasks:
                    if self._enough.is_set():
                        return
                    with contextlib.suppress(Exception):
                        task()

        self._thread = threading.Thread(target=work, name="sdsjax-ahead")
        self._thread.start()

    def wait(self) -> None:
        """Waits until all is done."""
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """Waits for the task that is being done, and has no other begun."""
        self._enough.set()
        self.wait()


def worth_it(steps_left: int, mesh) -> bool:
    """Tells whether a run should compile ahead.

    Not where devices are told apart, whose programs depend on where arrays lie; nor on
    an accelerator, where compiling tries kernels out in the memory that a step needs.
    """
    alone = mesh is None and jax.process_count() == 1
    return alone and steps_left >= LEAST_STEPS and target().platform == "cpu"


def shapes_of(tree):
    """Describes arrays for compiling: shape, dtype, and the device of committed ones.

    A program of arrays that are bound to a device is another than that of others. What
    is no array of JAX stays as it is.
    """

    def describe(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        where = leaf.sharding if leaf.committed else None
        weak = leaf.aval.weak_type
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where, weak_type=weak
        )

    return jax.tree.map(describe, tree)
