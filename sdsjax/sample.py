"""What a prior believes, without any 3D: `python -m sdsjax.sample "a red mug"`.

    python -m sdsjax.sample "a red mug" --prior=toybox-mv --out=samples.png

draws pictures by DDIM (arXiv 2010.02502, eta 0) from any folder that the loader reads
and writes them as one sheet: a row a set, a column a view (front, left, back, right). A
multi-view prior draws the views of a row together; for others they are independent, and
the prompt's view words follow the camera. A prior that cannot draw an object will not
distil it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

AZIMUTHS = (0.0, 90.0, 180.0, -90.0)
NEAREST_SIDE = 128  # pictures smaller than this are enlarged on the sheet


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m sdsjax.sample",
        description="Draws pictures from a prior, without any 3D, as one sheet.",
    )
    made.add_argument("prompt")
    made.add_argument(
        "--prior", default="toybox-mv", help="folder, repository's id or built-in name"
    )
    made.add_argument(
        "--tokenizer_folder", default="", help="for a single file: CLIP's vocabulary"
    )
    made.add_argument(
        "--prediction_type", help="for a single file of 2.x: epsilon or v_prediction"
    )
    made.add_argument("--negative", default="", help="the negative prompt")
    made.add_argument("--guidance", type=float, default=5.0, help="guidance scale")
    made.add_argument("--steps", type=int, default=40, help="of the DDIM sampler")
    made.add_argument("--sets", type=int, default=4, help="rows of the sheet")
    made.add_argument("--views", type=int, default=4, help="columns of the sheet")
    made.add_argument("--elevation", type=float, default=15.0, help="degrees")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=Path("samples.png"))
    return made


def views_at(azimuths: Sequence[float], elevation: float):
    """Cameras [n] on the toybox's orbit, which every prior's views are like."""
    import jax
    import jax.numpy as jnp

    from sdsjax.cameras import orbit_camera

    return jax.vmap(lambda azimuth: orbit_camera(azimuth, elevation))(
        jnp.asarray(azimuths)
    )


def draw(source, key, cameras, *, sets: int, guidance: float, steps: int):
    """Draws `sets` sets of views, [sets views h w 3] in [0, 1].

    source: a PriorSource; cameras [views]. Raises ValueError for a prior that has no
    decoder, and for a number of views that a multi-view prior cannot group.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sdsjax.diffusion import ddim_step, guide
    from sdsjax.types import View

    prior = source.bind(source.params)
    if prior.decode is None:
        raise ValueError("this prior cannot decode what it draws: choose another one")
    count, group = cameras.focal.shape[0], prior.group
    if count % group:
        raise ValueError(
            f"--views={count}: this prior draws {group} views together, choose a "
            "multiple of it"
        )
    total = prior.schedule.num_steps
    times = np.append(np.round(np.linspace(total - 1, 0, steps)), -1).astype(np.int32)
    shape = jax.eval_shape(prior.encode, jnp.zeros(source.image_shape)).shape
    shape = shape if group == 1 else (group, *shape)

    @jax.jit
    def sample(params, key, camera):
        bound = source.bind(params)
        view = View(camera)

        def step(z, pair):
            t, after = pair
            e = bound.noise(z, t, view)
            e_s = guide(e.cond, e.uncond, guidance)
            return ddim_step(bound.schedule, z, e_s, t, after), None

        first = jax.random.normal(key, shape)
        z, _ = jax.lax.scan(step, first, (times[:-1], times[1:]))
        return jnp.clip(0.5 * (bound.decode(z) + 1.0), 0.0, 1.0)

    def camera_of(index):
        if group == 1:
            return jax.tree.map(lambda leaf: leaf[index], cameras)
        return jax.tree.map(lambda leaf: leaf[index : index + group], cameras)

    rows = []
    for row in range(sets):
        key_row = jax.random.fold_in(key, row)
        drawn = [
            sample(source.params, jax.random.fold_in(key_row, index), camera_of(index))
            for index in range(0, count, group)
        ]
        rows.append(np.reshape(np.stack(drawn), (count, *source.image_shape)))
    return np.stack(rows)


def sheet(pictures):
    """Lays out [sets views h w 3] as one picture, small ones enlarged."""
    import numpy as np

    whole = np.concatenate(
        [np.concatenate(list(row), axis=1) for row in pictures], axis=0
    )
    factor = max(1, NEAREST_SIDE // pictures.shape[2])
    return np.repeat(np.repeat(whole, factor, axis=0), factor, axis=1)


def run(said: argparse.Namespace) -> None:
    """Checks, draws and writes the sheet. Raises ConfigError, LoaderError."""
    import jax

    from sdsjax.cli import checks, devices
    from sdsjax.cli.prior_choice import kind_of_folder
    from sdsjax.exports.pictures import write_image
    from sdsjax.models.loading import hub
    from sdsjax.training.build import PRIORS
    from sdsjax.training.config import ConfigError

    for name, least in (("steps", 1), ("sets", 1), ("views", 1), ("seed", 0)):
        if getattr(said, name) < least:
            raise ConfigError(
                f"--{name} must be at least {least}, not {getattr(said, name)}"
            )
    devices.backend()
    kind = kind_of_folder(said.prior) or hub.kind_named(said.prior)
    overrides = {
        "prompt": said.prompt,
        "negative_prompt": said.negative,
        "prior.name": kind,
        "prior.folder": said.prior,
        "prior.tokenizer_folder": said.tokenizer_folder,
        "prior.prediction_type": said.prediction_type,
    }
    config = checks.resolve("ssd", overrides)
    source = PRIORS[kind](config)
    turns = [AZIMUTHS[i % 4] if said.views <= 4 else 360.0 * i / said.views
             for i in range(said.views)]  # fmt: skip
    pictures = draw(
        source,
        jax.random.key(said.seed),
        views_at(turns, said.elevation),
        sets=said.sets,
        guidance=said.guidance,
        steps=said.steps,
    )
    write_image(said.out, sheet(pictures))
    print(
        f"wrote {said.out}: {said.sets} set(s) of {said.views} view(s) of "
        f"{said.prompt!r} by {said.prior} ({kind}), guidance {said.guidance:g}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status (2: the user's mistake)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    said = parser().parse_args(argv)
    try:
        run(said)
    except KeyboardInterrupt:
        print("sdsjax: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        from sdsjax.cli.devices import report

        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
