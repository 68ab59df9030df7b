"""What is read from and written to disk, apart from weights and runs.

Files that are either whole or absent (`atomic`), given pictures (`pictures`) with their
cameras (`given_cameras`) as one `Reference` (`reference_images`), the vertices of any
PLY file (`ply_tables`). Imports cameras at most.
"""
