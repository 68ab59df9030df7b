"""Score distillation for text-to-3D in JAX, measured against ground truth.

`generate` runs a whole job and gives an `Asset`; `distill` is the gradient of score
distillation through a renderer of the caller's own, `load_prior` what it distils.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdsjax.cli.python_api import Asset, generate
    from sdsjax.library.distill import distill
    from sdsjax.library.load_prior import load_prior

__all__ = ["Asset", "__version__", "distill", "generate", "load_prior"]

_HOMES = {
    "generate": "sdsjax.cli.python_api",
    "Asset": "sdsjax.cli.python_api",
    "distill": "sdsjax.library.distill",
    "load_prior": "sdsjax.library.load_prior",
}


def __getattr__(name: str):
    # Lazy: `import sdsjax` must not start a backend or read a network.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sdsjax' has no attribute {name!r}")
