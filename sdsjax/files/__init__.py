"""What is read from and written to disk, apart from weights and runs.

Files that are either whole or absent (`atomic`), given pictures with their cameras
(`reference_images`), the vertices of any PLY file (`ply_tables`). Imports cameras at
most.
"""
