"""Counts of operations: hand-computed ones, and loops against their unrolling."""

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.studies.flops import program_flops

N = 8
PRODUCT = 2 * N**3  # of two [N N] matrices
A = jnp.zeros((N, N))


def test_a_product_is_two_n_cubed():
    found = program_flops(lambda a: a @ a, A)
    assert found.whole == found.once == PRODUCT


def test_a_loop_counts_as_often_as_it_turns():
    def turned(a):
        return jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0]

    found = program_flops(turned, A)
    assert abs(found.whole - 7 * PRODUCT) < 0.02 * PRODUCT
    assert abs(found.once - PRODUCT) < 0.02 * PRODUCT


def test_loops_inside_of_loops_and_of_branches_multiply():
    def inner(c, a):
        return jax.lax.scan(lambda c, _: (c @ a, None), c, None, length=3)[0]

    def outer(a):
        mapped = jax.lax.map(lambda c: inner(c, a) @ a, jnp.stack([a] * 5))
        return jax.jit(inner)(mapped[0], a)

    # 5 x (3 + 1), then 3 behind a jit
    assert abs(program_flops(outer, A).whole - 23 * PRODUCT) < 0.1 * PRODUCT


def test_a_loop_is_its_unrolling():
    def body(c, a):
        return jnp.tanh(c @ a) + jax.nn.relu(c)

    def turned(a):
        return jax.lax.scan(lambda c, _: (body(c, a), None), a, None, length=4)[0]

    def unrolled(a):
        c = a
        for _ in range(4):
            c = body(c, a)
        return c

    one, two = (program_flops(f, A).whole for f in (turned, unrolled))
    np.testing.assert_allclose(one, two, rtol=0.01)
    # and its gradient, whose loop runs backwards
    one, two = (
        program_flops(jax.grad(lambda a, f=f: f(a).sum()), A).whole
        for f in (turned, unrolled)
    )
    np.testing.assert_allclose(one, two, rtol=0.1)


def test_a_loop_without_a_known_end_counts_once():
    def until(a):
        return jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ a, a)

    found = program_flops(until, A)
    assert found.whole == found.once
    assert PRODUCT <= found.whole < 1.5 * PRODUCT


def test_of_a_switch_the_dearest_branch_counts():
    def dearest(index, a):
        branches = [lambda a: a, lambda a: a @ a @ a, lambda a: a @ a]
        return jax.lax.switch(index, branches, a)

    found = program_flops(dearest, jnp.int32(0), A)
    assert abs(found.whole - 2 * PRODUCT) < 0.02 * PRODUCT
