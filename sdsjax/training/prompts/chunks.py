"""Who is trained together: chunks of assets that stand at the same step.

A step is compiled for one number of assets, the width; a chunk with fewer is padded.
Assets join a chunk only where they have a checkpoint in common (or none at all), and
begin at the newest that all of them have, so that no work of more than a checkpoint or
two is done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Chunk(NamedTuple):
    """Assets that are trained together from step `start`: positions in the list."""

    start: int
    members: tuple[int, ...]


def common_starts(checkpoints: Sequence[Sequence[int]]) -> list[Chunk]:
    """Groups assets by the checkpoints they have; every asset is in one group.

    checkpoints: the steps of each asset's intact ones, none for one to be begun.
    """
    begun = [i for i, steps in enumerate(checkpoints) if steps]
    begun.sort(key=lambda i: (-max(checkpoints[i]), i))
    groups: list[tuple[set[int], list[int]]] = []
    for index in begun:
        steps = set(checkpoints[index])
        common = groups[-1][0] & steps if groups else set()
        if common:
            groups[-1] = common, [*groups[-1][1], index]
        else:
            groups.append((steps, [index]))
    chunks = [Chunk(max(steps), tuple(sorted(members))) for steps, members in groups]
    fresh = tuple(i for i, steps in enumerate(checkpoints) if not steps)
    return [*chunks, *([Chunk(0, fresh)] if fresh else [])]


def width_of(groups: Sequence[Chunk], per_device: int, devices: int) -> int:
    """Returns how many assets a step takes: a multiple of the devices that it uses.

    At most per_device on each; as few as make the same number of chunks, so that little
    is padded.
    """
    largest = max(len(group.members) for group in groups)
    used = min(devices, largest)
    most = per_device * used
    rows = max(-(-len(g.members) // -(-len(g.members) // most)) for g in groups)
    return -(-rows // used) * used


def into_chunks(groups: Sequence[Chunk], width: int) -> list[Chunk]:
    """Cuts groups into chunks of at most `width` assets, of about equal size."""
    chunks = []
    for start, members in groups:
        count = -(-len(members) // width)
        size = -(-len(members) // count)
        chunks += [
            Chunk(start, members[i : i + size]) for i in range(0, len(members), size)
        ]
    return chunks
