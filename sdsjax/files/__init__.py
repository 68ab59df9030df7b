"""What is read from and written to disk, apart from weights and runs.

Files that are either whole or absent (`atomic`), given pictures with their cameras
(`reference_images`). Imports cameras at most.
"""
