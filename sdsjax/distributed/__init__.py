"""Several devices: meshes and shardings.

Views are spread over the mesh axis "data", parameters are on every device. Imports jax
alone; training uses it.
"""
