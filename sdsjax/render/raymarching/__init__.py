"""Rays through space: `volume_rendering` (where a ray meets a box and
what it sees along the way), `step_functions` (from coarse weights to where a ray is
looked at closely).
"""
