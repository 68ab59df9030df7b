"""The files outside a run directory that a run's numbers depend on.

`input_files` fingerprints them by the config's key that names them: given pictures with
their cameras, points to begin from, weights (of a repository: those in the local
cache). What else a run reads is in its config.json: prompts, captions, every setting.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from sdsjax.files.fingerprints import fingerprints
from sdsjax.files.reference_images import BadReference, files_of_reference
from sdsjax.training.build.editing import edits
from sdsjax.training.build.supervision import TOYBOX
from sdsjax.training.config import Config

# Keys of `prior` that name weights, for the priors that read them.
WEIGHTS = {
    "stable_diffusion": (
        *("folder", "vae_folder", "tokenizer_folder", "adapter_folder"),
        *("depth_folder", "normals_folder"),
    ),
    "stable_diffusion3": ("folder", "depth_folder", "normals_folder"),
    "multiview": ("folder", "tokenizer_folder", "depth_folder", "normals_folder"),
    "empirical": ("vae_folder",),
    "deepfloyd": ("folder",),
}
# Companions' files stand at the top of a folder; of others, in one a component.
AT_THE_TOP = ("depth_folder", "normals_folder")
AT_THE_TOP_TOO = {
    "vae_folder": ("config.json", "diffusion_pytorch_model*.safetensors"),
    "tokenizer_folder": ("*.json", "merges.txt"),
}
OF_COMPANIONS = ("config.json", "model*.safetensors", "model*.index*.json")


def input_files(config: Config) -> dict[str, dict[str, str]]:
    """Fingerprints what a config names: {"reference.path": {"mug.png": ...}, ...}.

    Nothing is fetched, and nothing is raised for what is missing or damaged: building
    the run says that.
    """
    found = {}
    reference = config.reference.path
    if reference not in ("", TOYBOX):
        try:
            files = files_of_reference(reference)
        except BadReference:
            files = []
        folder = files[0].parent if files else Path()
        found["reference.path"] = fingerprints(folder, files)
    points = str(config.representation.get("init", ""))
    if points.lower().endswith(".ply"):
        found["representation.init"] = fingerprints(Path(points).parent, [Path(points)])
    for path in _loras(config.prior):
        # two files of one name may lie in two folders
        said = fingerprints(path.parent, [path, path.with_name("adapter_config.json")])
        of_all = found.setdefault("prior.loras", {})
        of_all.update({str(path.parent / name): said[name] for name in said})
    edited = Path(config.edit.path).expanduser() if edits(config) else Path()
    if edited.suffix.lower() == ".ply":
        found["edit.path"] = fingerprints(edited.parent, [edited])
    elif edited != Path():  # finished.json holds the digest of the trained state
        found["edit.path"] = fingerprints(edited, [edited / "finished.json"])
    for key in WEIGHTS.get(config.prior.name, ()):
        if config.prior[key]:
            # the rest of the prior's settings are the same for all its folders
            revision = config.prior.revision if key == "folder" else None
            found[f"prior.{key}"] = _weights(config.prior[key], revision, key)
    return {key: files for key, files in found.items() if files}


def _loras(prior: Config) -> list[Path]:
    # what is no pair of a file and a weight is refused when the run is built
    pairs = [e for e in prior.loras if isinstance(e, tuple | list) and len(e) == 2]
    return [Path(str(file)).expanduser() for file, _ in pairs]


def _weights(folder: str, revision: str | None, key: str) -> dict[str, str]:
    # Imported here: the loaders take a second to import.
    from sdsjax.models.loading import hub
    from sdsjax.models.loading.repositories.snapshots import (
        FILES,
        FOLDERS,
        MORE_FOLDERS,
    )
    from sdsjax.models.loading.sd3 import folder as sd3
    from sdsjax.priors import deepfloyd

    root = Path(folder).expanduser()
    if root.is_file():
        return fingerprints(root.parent, [root])
    if not root.is_dir():
        root = hub.BUILT_IN / folder
    if not root.is_dir():
        try:
            root = Path(
                huggingface_hub.snapshot_download(
                    folder, revision=revision, local_files_only=True
                )
            )
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            return {}
    if key in AT_THE_TOP:
        patterns = [*OF_COMPANIONS]
    else:
        known = FOLDERS, MORE_FOLDERS, deepfloyd.FOLDERS, sd3.folders_of(True)
        components = sorted({name for folders in known for name in folders})
        patterns = [f"{name}/{kind}" for name in components for kind in FILES]
        # or what is wanted of it alone
        patterns += AT_THE_TOP_TOO.get(key, ())
    return fingerprints(root, {path for p in patterns for path in root.glob(p)})
