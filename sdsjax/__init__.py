"""Score distillation for text-to-3D in JAX, measured against ground truth.

`generate` runs a whole job and gives an `Asset`; cli/ and training/ do the work.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdsjax.cli.python_api import Asset, generate

__all__ = ["Asset", "__version__", "generate"]


def __getattr__(name: str):
    # Lazy: `import sdsjax` must not start a backend or read a network.
    if name in ("generate", "Asset"):
        from sdsjax.cli import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module 'sdsjax' has no attribute {name!r}")
