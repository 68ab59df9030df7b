"""What computations are compiled for: the one place where a platform is asked about.

Choices that depend on the machine (how many rays go at once, how many tiles, which
kernel computes attention) are functions of a `Target`, made where a factory is called
or a network is traced. Nothing else asks JAX for its default backend, so that a program
for a GPU or a TPU can be lowered and looked at where there is none. Every room may
import this one; it imports no other.
"""

from sdsjax.backend.target import Target, compiling_for, target

__all__ = ["Target", "compiling_for", "target"]
