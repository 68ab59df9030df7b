"""Arithmetic of rays through a volume, without a field or parameters.

`volume_rendering` has where a ray meets a box and what is accumulated along it;
`importance_sampling` turns weights of a first pass into the samples of a second one.
"""
