"""Training of the small networks: checkpoints, averages, resumes exactly.

A step is a pure function of (state, batch, key); the batch and the key are pure
functions of (seed, step). So stopping and starting again gives the uninterrupted run,
bit for bit on one machine. Checkpoints are one safetensors file, replaced atomically.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sdsjax.files.atomic import replacing, write_text

PyTree = Any
SAVE_EVERY = 180.0  # seconds
CHECKPOINT = "checkpoint.safetensors"


class FitState(NamedTuple):
    """The state of a training run between two steps.

    step [] int32; params; ema: their exponential moving average; opt_state: optax's.
    """

    step: jax.Array
    params: PyTree
    ema: PyTree
    opt_state: PyTree


class Recipe(NamedTuple):
    """What a fit needs beside its networks.

    loss: (params, frozen, batch, key) -> (scalar, dict of scalars); batch_at: step ->
    pytree of numpy arrays, pure; steps: how many in all; peak: the learning rate after
    the warm-up; cooldown: the last fraction of the steps, over which it falls to zero.
    """

    loss: Callable[..., tuple[jax.Array, dict]]
    batch_at: Callable[[int], PyTree]
    steps: int
    peak: float
    cooldown: float = 0.2
    warmup: int = 200
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    seed: int = 0


def trapezoid(recipe: Recipe) -> optax.Schedule:
    """Up over the warm-up, level, and linearly down to zero over the cool-down."""
    down = max(1, int(recipe.cooldown * recipe.steps))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, recipe.peak, recipe.warmup),
            optax.constant_schedule(recipe.peak),
            optax.linear_schedule(recipe.peak, 0.0, down),
        ],
        [recipe.warmup, recipe.steps - down],
    )


def _ema(recipe: Recipe, step, average, params):
    # a short memory at first, so that the average forgets the initial weights
    decay = jnp.minimum(recipe.ema_decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)


def _train_step(recipe: Recipe, optimizer: optax.GradientTransformation) -> Callable:
    # (state, frozen, batch) -> (state, figures), jitted; donates its state.
    @partial(jax.jit, donate_argnums=0)
    def train(state: FitState, frozen, batch):
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        value = jax.value_and_grad(recipe.loss, has_aux=True)
        (loss, aux), grads = value(state.params, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = _ema(recipe, state.step, state.ema, params)
        return FitState(state.step + 1, params, ema, opt_state), {"loss": loss} | aux

    return train


def fit(
    folder: Path,
    recipe: Recipe,
    params: PyTree,
    frozen: PyTree = (),
    *,
    minutes: float | None = None,
    pictures: int | None = None,
    log: Callable[[str], None] = print,
) -> FitState:
    """Trains to `recipe.steps`, from the checkpoint in `folder` if there is one.

    `params`: the initial weights (also the average's); `frozen`: weights that the loss
    needs and that do not change; `minutes`: stop after so long all the same; `pictures`
    a step, so that the log tells how many a second. Appends it to `folder/log.jsonl`.
    """
    deadline = time.monotonic() + 60.0 * (float("inf") if minutes is None else minutes)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(trapezoid(recipe), b2=0.99, weight_decay=recipe.weight_decay),
    )
    path = folder / CHECKPOINT
    state = _restored(folder, recipe, _first_state(params, optimizer), log)
    train = _train_step(recipe, optimizer)
    start = int(state.step)
    recent, began, saved = [], time.monotonic(), time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(recipe.batch_at, start)
        for step in range(start, recipe.steps):
            batch = pending.result()
            pending = ahead.submit(recipe.batch_at, step + 1)
            state, aux = train(state, frozen, batch)
            recent.append(aux)
            late = time.monotonic() >= deadline
            last = late or step + 1 == recipe.steps
            if (step + 1) % 50 == 0 or last:
                mean = _mean(recent)
                seconds = (time.monotonic() - began) / len(recent)
                if pictures is not None:
                    mean["pictures_per_second"] = pictures / seconds
                _record(folder, step + 1, mean, seconds)
                figures = "  ".join(f"{k} {v:.4f}" for k, v in mean.items())
                at = f"{folder.name} {step + 1}/{recipe.steps}"
                log(f"{at} {figures}  {seconds:.2f} s")
                recent, began = [], time.monotonic()
            if time.monotonic() - saved > SAVE_EVERY or last:
                save_state(path, state)
                saved = time.monotonic()
            if late:
                break
    return state


def fit_within(
    folder: Path, recipe: Recipe, params, frozen=(), *, minutes: float, **options
) -> FitState:
    """Trains as `fit` does, for so many `minutes` at most, the cool-down included.

    After its share of the time at the level rate, the cool-down gets as many steps as
    the rest allows at the pace so far (half as much again, should the machine slow
    down). Interrupted in its cool-down it goes on with that; else with new minutes.
    options: `fit`'s others.
    """
    cooled, share = _begun_cooldown(folder, recipe), recipe.cooldown
    if cooled is None:
        steps = round(recipe.steps * (1.0 - share))
        level = recipe._replace(steps=steps, cooldown=0.0)
        spent = (1.0 - share) * minutes
        state = fit(folder, level, params, frozen, minutes=spent, **options)
        reached, rest = int(state.step), recipe.steps - steps
        if reached < steps:
            rest = max(1, int(60.0 * share * minutes / seconds_per_step(folder)))
        whole = reached + rest
        cooled = recipe._replace(steps=whole, cooldown=rest / whole)
    spent = 1.5 * share * minutes
    return fit(folder, cooled, params, frozen, minutes=spent, **options)


def seconds_per_step(folder: Path) -> float:
    """The median of the last twenty entries of a fit's log."""
    lines = (folder / "log.jsonl").read_text().splitlines()[-20:]
    return float(np.median([json.loads(line)["seconds_per_step"] for line in lines]))


def _begun_cooldown(folder: Path, recipe: Recipe) -> Recipe | None:
    """The plan by which the checkpoint's rate falls already, None if it is level."""
    path = folder / "recipe.json"
    if not path.exists() or not (folder / CHECKPOINT).exists():
        return None
    then = json.loads(path.read_text())
    step = int(read_arrays(folder / CHECKPOINT)[".step"])
    if step <= then["steps"] * (1.0 - then["cooldown"]):
        return None
    return recipe._replace(steps=then["steps"], cooldown=then["cooldown"])


@partial(jax.jit, static_argnums=1)
def _first_state(params: PyTree, optimizer: optax.GradientTransformation) -> FitState:
    # copies, for the step donates its state; one program, not one a shape
    copied, average = (jax.tree.map(jnp.copy, params) for _ in range(2))
    return FitState(jnp.zeros((), jnp.int32), copied, average, optimizer.init(params))


def _restored(
    folder: Path, recipe: Recipe, first: FitState, log: Callable[[str], None]
) -> FitState:
    """The state of the checkpoint, or the first; folder and log are made to fit it.

    Raises ValueError for a checkpoint of another recipe.
    """
    state, path = first, folder / CHECKPOINT
    if path.exists():
        state = load_state(path, first)
        _check_unchanged(folder, recipe, int(state.step))
        log(f"{folder.name}: continues at step {int(state.step)}")
    _remember(folder, recipe)
    _forget(folder, int(state.step))
    return state


def _mean(records: list[dict]) -> dict[str, float]:
    return {
        name: float(np.mean([np.asarray(r[name]) for r in records]))
        for name in records[0]
    }


def _record(folder: Path, step: int, mean: dict[str, float], seconds: float) -> None:
    line = json.dumps({"step": step, "seconds_per_step": seconds} | mean)
    with open(folder / "log.jsonl", "a") as file:
        file.write(line + "\n")


def _figures(recipe: Recipe) -> dict[str, float]:
    return {k: v for k, v in recipe._asdict().items() if not callable(v)}


def _remember(folder: Path, recipe: Recipe) -> None:
    write_text(folder / "recipe.json", json.dumps(_figures(recipe), indent=1) + "\n")


def _check_unchanged(folder: Path, recipe: Recipe, step: int) -> None:
    """Raises ValueError if the steps behind us would have been others by this recipe.

    More or fewer steps in all are fine while the rate is level by both plans.
    """
    path = folder / "recipe.json"
    if not path.exists():
        return
    now, then = _figures(recipe), json.loads(path.read_text())
    level = [plan["steps"] * (1.0 - plan["cooldown"]) for plan in (now, then)]
    free = ("steps", "cooldown") if step <= min(level) else ()
    changed = [
        f"{name} = {then.get(name)} (now {value})"
        for name, value in now.items()
        if name not in free and then.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{folder} was begun with {', '.join(changed)} and is at step {step}: "
            "go on with the same recipe, or choose another folder"
        )


def _forget(folder: Path, step: int) -> None:
    """Drops what the log says of steps after the checkpoint: they are done again."""
    path = folder / "log.jsonl"
    if path.exists():
        lines = path.read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))


def flat(tree: PyTree) -> dict[str, Any]:
    """Names every leaf of a pytree by its path, such as ".params['conv']"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save_state(path: Path, state: PyTree) -> None:
    """Writes every leaf of a pytree of arrays to one file, atomically."""
    with replacing(path) as scratch:
        save_file({k: np.asarray(v) for k, v in flat(state).items()}, str(scratch))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a safetensors file by name; ValueError if it cannot be read."""
    try:
        with safe_open(str(path), "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error


def load_state(path: Path, like: PyTree) -> PyTree:
    """Reads what `save_state` wrote into the structure of `like`.

    Raises ValueError, naming the entry, if names, shapes or types differ.
    """
    found = read_arrays(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    out = []
    for key_path, leaf in leaves:
        name = jax.tree_util.keystr(key_path)
        value = found.pop(name, None)
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            raise ValueError(
                f"{path}: entry {name} is missing or not {leaf.dtype}{leaf.shape}: "
                "it was written by another recipe; remove it to start again"
            )
        out.append(jnp.asarray(value))
    if found:
        raise ValueError(f"{path}: unexpected entry {next(iter(found))}")
    return jax.tree_util.tree_unflatten(structure, out)


def load_ema(path: Path, like: PyTree) -> PyTree:
    """The moving average of a checkpoint that `fit` wrote, in the structure of `like`.

    Raises ValueError, naming the entry, if one is missing or of another shape.
    """
    found = read_arrays(path)

    def taken(key_path, leaf):
        name = ".ema" + jax.tree_util.keystr(key_path)
        value = found.get(name)
        if value is None or value.shape != leaf.shape:
            raise ValueError(f"{path}: entry {name} is missing or not {leaf.shape}")
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(taken, like)
