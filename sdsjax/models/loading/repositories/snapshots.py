"""Fetches what is read of a repository from the hub of Hugging Face, or its cache.

Small files first (`fetch_configs`): what they say is checked before gigabytes come.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from sdsjax.models.loading.errors import LoaderError

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# the subfolder of what denoises: one of them is in every whole model
NETWORKS = ("unet", "transformer")
FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# what SDXL has beside them: a second text encoder, and how empty prompts are encoded
MORE_FOLDERS = ("text_encoder_2", "tokenizer_2")
T5_FOLDERS = ("text_encoder_3", "tokenizer_3")  # Stable Diffusion 3's third
INDEX = "model_index.json"


# what says what a repository's networks are
CONFIGS = (INDEX, *(f"{name}/config.json" for name in NETWORKS))


def fetch_configs(repo: str) -> Path:
    """Fetches the small files that say what a repository's networks are.

    Raises LoaderError, which names a command that fetches them.
    """
    command = _command(repo, None, [f'"{name}"' for name in CONFIGS])
    return _snapshot(repo, None, CONFIGS, [], command)


def fetch(
    repo: str,
    revision: str | None,
    variant: str | None,
    folders: tuple[str, ...],
    held: Sequence[str],
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Fetches the wanted subfolders of a repository; ("",): the files at its top.

    variant: "fp16" for files so named alone, else without them where there are others;
    held: those of `folders` that hold weights; check: of the networks' configs, which
    are fetched before the rest. Raises LoaderError, which names the command that
    fetches them, and what `check` raises.
    """
    # of a variant its own files alone: SDXL's others are 14 GB beside its 7
    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    kinds = [weights if kind == "*.safetensors" else kind for kind in FILES]
    if folders == FOLDERS:
        folders = FOLDERS + MORE_FOLDERS
    patterns = [f"{name}/{kind}".lstrip("/") for name in folders for kind in kinds]
    # subfolders only: the top of a repository holds whole-model checkpoints, many GB
    within = "" if folders == ("",) else "*/"
    included = [f'"{within}{kind}"' for kind in kinds]
    if set(MORE_FOLDERS) <= set(folders):
        patterns.append(INDEX)
        included.append(f'"{INDEX}"')
    # beside the weights wanted, folders hold other precisions and training leftovers
    skipped = ["*non_ema*"] if variant else ["*non_ema*", "*.fp16*"]
    if "transformer" in folders:
        # Stable Diffusion 3's T5, 9.5 GB, where it is left out
        skipped += [f"{name}/*" for name in T5_FOLDERS if name not in folders]
    command = _command(repo, revision, included, skipped)
    if check is not None:
        check(_snapshot(repo, revision, CONFIGS, [], command))
    root = _snapshot(repo, revision, patterns, skipped, command)
    lacking = not all(any((root / name).glob("*.safetensors")) for name in held)
    if not variant and lacking:
        root = _snapshot(repo, revision, patterns, ["*non_ema*"], command)
    return root


def _command(repo, revision, included: Sequence[str], skipped: Sequence[str] = ()):
    command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    command += " --include " + " ".join(included)
    if skipped:
        command += " --exclude " + " ".join(f'"{kind}"' for kind in skipped)
    return command


def _snapshot(
    repo: str,
    revision: str | None,
    allowed: Collection[str],
    ignored: Collection[str],
    command: str,
) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(allowed),
                ignore_patterns=list(ignored),
            )
        )
    except hub_errors.GatedRepoError:
        raise LoaderError(
            f"{repo}: gated; accept its licence on its page at the hub, log in with "
            "'hf auth login' (or set HF_TOKEN), and run again"
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise LoaderError(f"{repo}: no revision {revision!r} at the hub") from None
    except hub_errors.RepositoryNotFoundError:
        raise LoaderError(
            f"{repo}: neither a local folder nor a public repository at the hub; if it "
            "is private, log in with 'hf auth login'"
        ) from None
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LoaderError(
            f"{repo}: not in the local cache and not reachable; with network, fetch it "
            f"once by: {command}  ({type(error).__name__}: {reason})"
        ) from None
