"""What several processes say of one another, without any other process."""

import jax
import pytest

from sdsjax.distributed.hosts import as_lost


@pytest.mark.parametrize(
    "said",
    [
        "UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:51587",
        "UNAVAILABLE: failed to connect to all addresses",
        "ABORTED: heartbeat timeout of task 1",
    ],
)
def test_a_collective_that_fails_for_a_peer_ends_as_a_lost_one(said):
    found = as_lost(jax.errors.JaxRuntimeError(said))
    assert found.exit_code == 6
    assert "another process" in str(found)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        ValueError("connection reset"),
    ],
)
def test_any_other_error_stays_what_it_is(error):
    assert as_lost(error) is error
