"""Chunks: everybody in one, nobody behind a checkpoint that all have."""

from hypothesis import given
from hypothesis import strategies as st

from sdsjax.training.prompts.chunks import common_starts, into_chunks, width_of

CHECKPOINTS = st.lists(
    st.sets(st.sampled_from([10, 20, 30, 40]), max_size=3).map(sorted),
    min_size=1,
    max_size=12,
)


@given(CHECKPOINTS, st.integers(1, 5), st.integers(1, 4))
def test_everybody_is_in_one_chunk_that_starts_where_all_can(found, most, devices):
    groups = common_starts(found)
    width = width_of(groups, most, devices)
    chunks = into_chunks(groups, width)
    members = [index for chunk in chunks for index in chunk.members]
    assert sorted(members) == list(range(len(found)))
    assert 1 <= width <= most * devices
    for start, inside in chunks:
        assert 1 <= len(inside) <= width
        for index in inside:
            # from scratch only who has nothing to go on from
            assert start in found[index] if found[index] else start == 0


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 8))
def test_as_few_chunks_as_fit_and_as_little_padding(count, most, devices):
    groups = common_starts([[]] * count)
    width = width_of(groups, most, devices)
    chunks = into_chunks(groups, width)
    used = min(devices, count)
    assert len(chunks) == -(-count // (most * used))
    assert width % used == 0
    # less than a device's row of them is padded in each chunk
    assert width - max(len(chunk.members) for chunk in chunks) < used


def test_a_chunk_cut_off_while_it_saved_goes_on_together():
    found = [[20, 10], [10], [20, 10], []]
    assert common_starts(found) == [(10, (0, 1, 2)), (0, (3,))]
