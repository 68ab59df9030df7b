"""Checks of a config's `edit` section: what an editing run begins from."""

from __future__ import annotations

from pathlib import Path

from sdsjax.estimators.editing import EDITING
from sdsjax.training.build.editing import edits, settings_that_differ
from sdsjax.training.config import Config, ConfigError, load_json

# the variant of configs/edit.py that edits a representation
VARIANT_OF = {"gaussians": "dds", "nerf": "nerf", "image": "image"}


def source_prompts(config: Config) -> tuple[str, ...]:
    """Returns the prompt of what is edited, or nothing."""
    return (config.edit.source_prompt,) if edits(config) else ()


def check_edit(config: Config) -> None:
    """What is edited is there, fits, and is compared before one background."""
    edit = config.get("edit") or {"path": "", "source_prompt": ""}
    name, path = config.estimator.name, edit["path"]
    if not path:
        if name in EDITING or edit["source_prompt"]:
            raise ConfigError(
                f"estimator {name!r} edits an asset: pass --config.edit.path=RUN, a "
                "finished run's directory or a splats.ply"
                if name in EDITING
                else "edit.source_prompt says what edit.path shows: pass "
                "--config.edit.path=RUN as well"
            )
        return
    if not Path(path).expanduser().exists():
        raise ConfigError(
            f"edit.path {path!r} does not exist: pass a finished run's directory or a "
            "splats.ply"
        )
    if not edit["source_prompt"].strip():
        raise ConfigError(
            f"edit.source_prompt is empty: say what {path} shows, "
            '--config.edit.source_prompt="a red mug"'
        )
    if name in EDITING and edit["source_prompt"].strip() == config.prompt.strip():
        raise ConfigError(
            f"prompt and edit.source_prompt are both {config.prompt!r}, between which "
            f"{name} finds no difference: say what {path} shall become"
        )
    if Path(path).expanduser().is_file() and Path(path).suffix.lower() != ".ply":
        raise ConfigError(
            f"edit.path {path!r} is no PLY file: pass a finished run's directory or a "
            "splats.ply"
        )
    _check_representation(config)
    flat = config.representation.name == "image"
    if config.background == "random" and not flat:
        raise ConfigError(
            "edit.path: source and target are compared before one background, not a "
            "random one: pass --config.background=white"
        )


def _check_representation(config: Config) -> None:
    """The run begins from what the source is made of, and from all of it."""
    said, path = config.representation, Path(config.edit.path).expanduser()
    stored = path / "config.json"
    if path.is_file() and said.name != "gaussians":
        raise ConfigError(
            f"edit.path {config.edit.path!r} holds splats, and representation.name is "
            f"{said.name!r}: choose gaussians (--config=edit), or pass a finished "
            f"run's directory of {said.name!r}"
        )
    if said.get("band_first"):
        raise ConfigError(
            f"representation.band_first = {said.band_first} begins without the fine "
            "levels of what is edited: pass --config.representation.band_first=0"
        )
    if not stored.is_file():
        return  # building says what else is amiss with a directory
    theirs = load_json(stored).get("representation") or {}
    name = theirs.get("name")
    if name in VARIANT_OF and name != said.name:
        raise ConfigError(
            f"edit.path: {path} trained the representation {name!r}, and this run's "
            f"is {said.name!r}: pass --config=edit:{VARIANT_OF[name]}"
        )
    differing = settings_that_differ(said, theirs)
    if differing:
        flags = (f"--config.representation.{k}={v}" for k, v in differing.items())
        raise ConfigError(
            f"edit.path: {path} was trained with other settings, by which its "
            f"parameters mean something else: pass {' '.join(flags)}"
        )


def settle_edit(config: Config) -> None:
    """Fills in place the prompt of what is edited, where it is a run and says it."""
    edit = config.get("edit")
    if not edit or not edit.path or edit.source_prompt:
        return
    stored = Path(edit.path).expanduser() / "config.json"
    if stored.is_file():
        prompt = load_json(stored).get("prompt")
        edit.source_prompt = prompt if isinstance(prompt, str) else ""
