"""The recipes that trained the embedded networks.

A pool of pictures (`pool`), a loop that resumes exactly (`fit`), pictures as an
optimisation shows them early (`degrade`), and one file a network (`train_*`). Imports
the world and models.
"""
