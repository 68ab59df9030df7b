"""A prior for `sdsjax.distill`, read by a prompt and the name of a folder.

What a config's `prior` section says is said here by keyword arguments; names, words and
files are checked as on the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from sdsjax.cli import checks
from sdsjax.training.build import PRIORS
from sdsjax.types import Prior, PriorSource, PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["bind", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class LoadedPrior:
    """A prior that may be an argument of a jitted function.

    Its parameters are the leaves, so that they are no constants of the program. Fields:
    params; bind: params -> Prior; image_shape: the (h, w, c) that it encodes, None: any
    (static).
    """

    params: PyTree
    bind: Callable[[PyTree], Prior]
    image_shape: tuple[int, ...] | None = None


def as_loaded(prior: LoadedPrior | PriorSource | Prior) -> LoadedPrior:
    """Makes a LoadedPrior of what `distill` takes; a bound Prior has no parameters."""
    if isinstance(prior, LoadedPrior):
        return prior
    if isinstance(prior, PriorSource):
        return LoadedPrior(*prior)
    if isinstance(prior, Prior):
        return LoadedPrior((), lambda params: prior)
    raise TypeError(
        f"prior: {type(prior).__name__} is no prior: pass what sdsjax.load_prior "
        "gives, or a sdsjax.types.Prior"
    )


def load_prior(
    prompt: str, folder: str = "toybox-sd", *, negative_prompt: str = "", **settings
) -> LoadedPrior:
    """Loads a diffusion prior with its prompt encoded.

    folder: `toybox-sd`, `toybox-mv` or `toybox-flow` (embedded, offline), a folder in
    the Hugging Face layout, a repository's id, or `exact`: the toybox's true scores at
    each camera, before white; it takes seconds, and each view's score is rendered anew.
    settings: keys of a config's `prior` section (`dtype="bfloat16"`,
    `view_prompts=False`, ...) and `resolution`, px, of a prior that takes any. Raises
    ConfigError (a ValueError, one line) and the loaders' own errors.
    """
    config, chosen = "ssd:toybox", {"prior.folder": folder}
    if folder == "exact":
        config, chosen = "ssd:exact", {}
    size: dict[str, Any] = {}
    if "resolution" in settings:
        size["resolution"] = settings.pop("resolution")
    resolved = checks.resolve(
        config,
        {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            **size,
            **chosen,
            **{f"prior.{key}": value for key, value in settings.items()},
        },
    )
    return LoadedPrior(*PRIORS[resolved.prior.name](resolved))
