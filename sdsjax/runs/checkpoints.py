"""Checkpoints that never load silently wrong.

A state is saved as its leaves, named by their place in the tree, through Orbax's
CheckpointManager; beside them goes `manifest.json`: the sha256 of every file (Orbax
restores a flipped byte without a word), the shapes and dtypes, and the sha256 of the
arrays themselves. It is written last and atomically: a step without one was never
finished. Nothing read here is executed or unpickled, no path comes out of a file.

    checkpoints/<step>/{manifest.json, Orbax's files}
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sdsjax.files.atomic import write_text
from sdsjax.runs.disk_errors import in_words, said_once
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.types import PyTree

MANIFEST = "manifest.json"
FORMAT = "sdsjax-checkpoint-1"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message is one line."""

    exit_code = ExitStatus.CHECKPOINT


def named_leaves(state: PyTree) -> dict[str, np.ndarray]:
    """Names every leaf of a state by its index and path, as numpy arrays.

    Typed random keys are their integers.
    """
    named = {}
    for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        word = re.sub(r"\W+", "_", jax.tree_util.keystr(path)).strip("_")
        named[f"{index:04d}_{word}"] = np.asarray(leaf)
    return named


def digest(state: PyTree) -> str:
    """Hashes a state by sha256: names, dtypes, shapes and bytes of its leaves."""
    return _digest_of(named_leaves(state))


def _digest_of(named: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, leaf in named.items():
        total.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def seal(manifest: dict) -> str:
    """Hashes a manifest by sha256.

    So damage to it is told from damage to the files.
    """
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _specification(named: dict[str, np.ndarray]) -> dict[str, list]:
    return {
        name: [list(leaf.shape), str(np.dtype(leaf.dtype))]
        for name, leaf in named.items()
    }


def file_digests(folder: Path) -> dict[str, str]:
    """Hashes every file under a step's folder but the manifest by sha256.

    Raises CheckpointError for a link: what it points to is not part of the run.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link")
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


class Checkpoints:
    """Reads and writes the checkpoints of one run; `keep` of them stay on disk."""

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        self.folder = folder
        self.keep = keep
        self._orbax: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """Steps that have a folder, valid or not, ascending."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if re.fullmatch(r"\d{1,12}", name))

    def verify(self, step: int) -> dict:
        """The manifest of an intact step. Raises CheckpointError naming the damage."""
        folder = self.folder / str(step)
        path = folder / MANIFEST
        what = f"checkpoint {step} in {self.folder}"
        try:
            manifest = json.loads(path.read_bytes())
            recorded = manifest["files"]
            whole = manifest.pop("seal") == seal(manifest)
            known = (manifest["format"], manifest["step"]) == (FORMAT, step)
        except FileNotFoundError:
            raise CheckpointError(f"{what} is incomplete: no {MANIFEST}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{what}: {MANIFEST} is damaged") from None
        if not whole or not isinstance(recorded, dict):
            raise CheckpointError(f"{what}: {MANIFEST} is damaged")
        if not known:
            raise CheckpointError(f"{what}: {MANIFEST} is of another step or version")
        found = file_digests(folder)
        for name in sorted({*recorded, *found}):
            if name not in found:
                raise CheckpointError(f"{what}: file {name} is missing")
            if name not in recorded:
                raise CheckpointError(f"{what}: file {name} does not belong to it")
            if found[name] != recorded[name]:
                raise CheckpointError(f"{what}: file {name} has changed since written")
        return manifest

    def _store(self) -> ocp.CheckpointManager:
        if self._orbax is None:
            self.folder.mkdir(exist_ok=True)
            # Of several processes only the one that holds the directory comes here.
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0,
                active_processes={0},
                barrier_sync_key_prefix="sdsjax",
            )
            several = {"multiprocessing_options": alone, "create": False}
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                **(several if jax.process_count() > 1 else {}),
            )
            self._orbax = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return self._orbax

    def save(self, step: int, state: PyTree) -> None:
        """Writes a checkpoint, then drops the oldest beyond `keep`.

        Raises CheckpointError (disk full, ...) and leaves the earlier steps as they
        were.
        """
        folder = self.folder / str(step)
        named = named_leaves(state)
        try:
            # Zero-size arrays have nothing to store, and Orbax refuses them.
            stored = {name: leaf for name, leaf in named.items() if leaf.size}
            with said_once():
                saved = self._store().save(
                    step, args=ocp.args.StandardSave(stored), force=True
                )
                self._store().wait_until_finished()
            manifest = {
                "format": FORMAT,
                "step": step,
                "state_sha256": digest(state),
                "leaves": _specification(named),
                "files": file_digests(folder),
            }
            manifest["seal"] = seal(manifest)
            write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._clean()
            reason = " ".join(in_words(error).split())
            good = [s for s in self.steps() if s != step]
            last = f"the last good one is {good[-1]}" if good else "there is no other"
            raise CheckpointError(
                f"cannot write checkpoint {step} to {self.folder}: {reason}; {last}"
            ) from error
        if not saved:
            raise CheckpointError(f"Orbax did not save checkpoint {step}")
        for old in self.steps()[: -self.keep]:
            self._remove(old)

    def _remove(self, step: int) -> None:
        # The manifest first: cut off half-way, the rest counts as unfinished.
        (self.folder / str(step) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def _clean(self) -> None:
        for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def _valid(self, announce: Callable[[str], None]) -> Iterator[tuple[int, dict]]:
        for step in reversed(self.steps()):
            try:
                yield step, self.verify(step)
            except CheckpointError as error:
                announce(str(error))

    def intact(self) -> list[int]:
        """Finds the steps whose files are all as they were written, newest first."""
        return [step for step, _ in self._valid(lambda line: None)]

    def restore(
        self,
        template: PyTree,
        announce: Callable[[str], None],
        last: int | None = None,
    ) -> tuple[int, PyTree] | None:
        """The newest intact checkpoint as (step, state), or None if none was written.

        template: the state's shapes and dtypes (jax.eval_shape); last: the newest step
        that is asked for, by default any. Damaged or unfinished newer steps are
        announced and removed; they will be computed again. Raises CheckpointError if
        finished ones exist but none is intact, or if the intact one holds another
        state.
        """
        self._clean()
        finished = any((self.folder / str(s) / MANIFEST).exists() for s in self.steps())
        valid = self._valid(announce)
        found = next((v for v in valid if last is None or v[0] <= last), None)
        if found is None:
            if finished:
                raise CheckpointError(
                    f"no checkpoint in {self.folder} is intact: restore them from a "
                    "copy, or start again in another --workdir"
                )
            for step in self.steps():
                self._remove(step)
            self.close()
            return None
        step, manifest = found
        state = self._load(step, manifest, template)
        for other in self.steps():
            if other > step:
                announce(f"going back to checkpoint {step}; {other} is removed")
                self._remove(other)
        self.close()
        return step, state

    def load(self, step: int, template: PyTree) -> PyTree:
        """Loads one step's state, verified; changes nothing. Raises CheckpointError."""
        return self._load(step, self.verify(step), template)

    def load_leaves(self, step: int) -> dict[str, np.ndarray]:
        """Loads one step's arrays by name (`named_leaves`), verified.

        For who wants a part of a state and cannot make the whole; changes nothing.
        Raises CheckpointError.
        """
        manifest = self.verify(step)
        blank = {
            name: np.zeros(shape, np.dtype(dtype))
            for name, (shape, dtype) in manifest["leaves"].items()
        }
        target = {name: leaf for name, leaf in blank.items() if leaf.size}
        stored = self._read(step, target)
        named = {name: np.asarray(stored.get(name, blank[name])) for name in blank}
        if _digest_of(named) != manifest["state_sha256"]:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder}: its arrays are not those saved"
            )
        return named

    def _read(self, step: int, target: dict[str, np.ndarray]) -> Any:
        try:
            return self._store().restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} cannot be read: {reason}"
            ) from error

    def _load(self, step: int, manifest: dict, template: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(template)
        blank = jax.tree.map(_blank, template)
        expected = _specification(named_leaves(blank))
        if manifest["leaves"] != expected:
            changed = sorted(
                name
                for name in {*expected, *manifest["leaves"]}
                if expected.get(name) != manifest["leaves"].get(name)
            )
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} holds another state than this "
                f"config makes: {', '.join(changed[:3])} differ in shape or type"
            )
        target = {n: a for n, a in named_leaves(blank).items() if a.size}
        stored = self._read(step, target)
        state = jax.tree.unflatten(
            tree,
            [_restored(leaf, stored.get(name)) for name, leaf in zip(expected, leaves)],
        )
        if digest(state) != manifest["state_sha256"]:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder}: its arrays are not those saved"
            )
        return state

    def close(self) -> None:
        """Lets go of Orbax, which remembers steps it saw; the next use looks again."""
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _blank(leaf):
    if not _is_key(leaf):
        return np.zeros(leaf.shape, leaf.dtype)
    shape = jax.eval_shape(jax.random.key_data, leaf)
    return np.zeros(shape.shape, shape.dtype)


def _restored(leaf, stored):
    if stored is None:
        return jax.numpy.zeros(leaf.shape, leaf.dtype)
    if _is_key(leaf):
        return jax.random.wrap_key_data(stored)
    # A copy: the step donates its state, and must own it.
    return jax.numpy.array(stored)
