"""The runs that a folder holds: those of its list of prompts, or all that lie in it."""

from __future__ import annotations

import json
from pathlib import Path

from sdsjax.training.config import ConfigError
from sdsjax.training.prompts.list_file import LIST, ListedAsset, read_list


def is_run(folder: Path) -> bool:
    """Tells whether a folder is the directory of one run."""
    return (folder / "run.json").is_file()


def is_list(folder: Path) -> bool:
    """Tells whether a folder is no run, and holds a list of prompts or runs."""
    if is_run(folder) or (folder / "metrics.json").is_file():
        return False
    return (folder / LIST).is_file() or any(map(is_run, folder.iterdir()))


def prompt_of(run: Path) -> str:
    """Reads the prompt of a run. Raises ConfigError where its config cannot be read."""
    try:
        prompt = json.loads((run / "config.json").read_text("utf-8"))["prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise ConfigError(f"{run} holds no readable config.json: it was damaged")
    return prompt


def check_folder(folder: Path) -> None:
    """Raises ConfigError for what is no folder."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}: pass directories of runs, or of lists")


def read_assets(folder: Path) -> list[ListedAsset]:
    """Lists the assets of a folder: of its prompts.json, else the runs in it, by name.

    Raises ConfigError for a folder without runs, or with two of the same prompt, of
    which nobody can tell which is meant.
    """
    check_folder(folder)
    try:
        listed = read_list(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if listed is not None:
        return listed
    runs = sorted(run for run in folder.iterdir() if is_run(run))
    if not runs:
        raise ConfigError(
            f"{folder} holds no runs (neither {LIST} nor directories with a run.json): "
            "pass the --workdir of a --prompts job"
        )
    found: dict[str, ListedAsset] = {}
    for run in runs:
        prompt = prompt_of(run)
        if prompt in found:
            raise ConfigError(
                f"{folder} holds two runs of {prompt!r} ({found[prompt].folder.name}, "
                f"{run.name}) and no {LIST}: pass the folder of one --prompts job"
            )
        done = (run / "finished.json").is_file()
        status = "finished" if done else "unfinished"
        found[prompt] = ListedAsset(prompt, "", run, status)
    return list(found.values())
