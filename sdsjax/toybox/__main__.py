"""The toybox's commands: `python -m sdsjax.toybox COMMAND`."""

import argparse
import json
import sys
from pathlib import Path

from sdsjax.files.reference_images import CAMERAS, Orbit
from sdsjax.toybox.world.references import write_references
from sdsjax.toybox.world.sheet import contact_sheet


def _sheet(arguments):
    contact_sheet(
        arguments.out, kinds=arguments.kinds, pairs=arguments.pairs, zoom=arguments.zoom
    )
    print(f"wrote {arguments.out}")


def _add_sheet(commands):
    command = commands.add_parser("sheet", help="draw a contact sheet of the toybox")
    command.add_argument("--out", default="sheet.png", help="picture file to write")
    command.add_argument("--kinds", nargs="*", help="only these kinds")
    command.add_argument("--pairs", type=int, default=20, help="two-object scenes")
    command.add_argument("--zoom", type=int, default=2, help="enlargement of a cell")
    command.set_defaults(run=_sheet)


def _references(arguments):
    orbits = [
        Orbit(azimuth, arguments.elevation, arguments.distance, arguments.fov)
        for azimuth in arguments.azimuths
    ]
    write_references(arguments.out, arguments.prompt, orbits, arguments.size)
    print(f"wrote {len(orbits)} picture(s) and {CAMERAS} to {arguments.out}")


def _add_references(commands):
    command = commands.add_parser(
        "references", help="write true pictures of a prompt as references"
    )
    command.add_argument("prompt", help="a caption of the toybox")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--azimuths", type=float, nargs="+", default=[0.0])
    command.add_argument("--elevation", type=float, default=15.0)
    command.add_argument("--distance", type=float, default=Orbit().distance)
    command.add_argument("--fov", type=float, default=Orbit().fov)
    command.add_argument("--size", type=int, default=256, help="pixels a side")
    command.set_defaults(run=_references)


def _recipe_of(network: str):
    """The default recipe of a network of `train`."""
    from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
    from sdsjax.toybox.training.train_clip import ClipRecipe
    from sdsjax.toybox.training.train_depth import DepthRecipe
    from sdsjax.toybox.training.train_flow import FlowRecipe
    from sdsjax.toybox.training.train_prior import PriorRecipe

    recipes = {"depth": DepthRecipe, "normals": DepthRecipe, "clip": ClipRecipe}
    recipes |= {"multiview": MultiViewRecipe, "flow": FlowRecipe}
    return recipes.get(network, PriorRecipe)()


def _changed(recipe, arguments):
    """The recipe with what the command line says; ValueError for what it lacks."""
    flags = {name for network in NETWORKS for name in _recipe_of(network)._fields}
    given = {f: getattr(arguments, f) for f in flags}
    given = {f: value for f, value in given.items() if value is not None}
    strange = sorted(set(given) - set(recipe._fields))
    if strange:
        raise ValueError(
            f"train {arguments.network} takes no --{strange[0]}; it takes "
            + ", ".join(f"--{name}" for name in recipe._fields)
        )
    return recipe._replace(**given)


def _train(arguments):
    name, work, out = arguments.network, Path(arguments.work), Path(arguments.out)
    recipe = _changed(_recipe_of(name), arguments)
    if name == "judge":
        _train_judge(work, out, recipe, arguments.judge_steps)
    elif name == "azimuth":
        _train_azimuth(work, out, recipe, arguments.judge_steps)
    elif name == "prior":
        _train_prior(work, out, recipe)
    elif name == "multiview":
        _train_multiview(work, out, recipe)
    elif name == "flow":
        _train_flow(work, out, recipe)
    else:
        _train_companion(name, work, out, recipe)
    print(f"wrote {out}")


def _train_judge(work, out, recipe, steps):
    from sdsjax.toybox.scoring import judge
    from sdsjax.toybox.training import pool

    pictures = pool.build_pool(
        work / "pool", singles=recipe.singles, pairs=recipe.pairs, seed=recipe.seed
    )
    judge.save_judge(judge.train_judge(work, pictures, steps=steps), out)


def _train_azimuth(work, out, recipe, steps):
    from sdsjax.toybox.scoring import azimuth
    from sdsjax.toybox.scoring.measure_views import heldout_sets
    from sdsjax.toybox.training import pool
    from sdsjax.toybox.training.view_sets import VIEWS

    pictures = pool.build_pool(
        work / "sets", singles=100, pairs=1, seed=recipe.seed, views=VIEWS
    )
    params = azimuth.train_azimuth(work, pictures, steps=steps)
    azimuth.save_azimuth(params, out)
    heldout = heldout_sets(work / "0")
    error = azimuth.error_on_renders(azimuth.load_azimuth(out), heldout)
    azimuth.save_azimuth(params, out, {"median_degrees_on_held_out_renders": error})
    print(f"median error on held-out renders: {error:.1f} degrees")


def _train_multiview(work, out, recipe):
    from sdsjax.toybox.scoring import azimuth, card_views, judge
    from sdsjax.toybox.training.train_multiview import train_multiview

    judge.load_judge()  # before hours of training, not after
    azimuth.load_azimuth()
    train_multiview(work, out, recipe)
    card_views.write_card(out, work, recipe)


def _train_flow(work, out, recipe):
    from sdsjax.toybox.scoring import card_flow, judge
    from sdsjax.toybox.training.train_flow import train_flow

    judge.load_judge()  # before hours of training, not after
    train_flow(work, out, recipe)
    card_flow.write_card(out, work, recipe)


def _train_prior(work, out, recipe):
    from sdsjax.toybox.scoring import card, judge
    from sdsjax.toybox.training import train_prior

    judge.load_judge()  # before hours of training, not after
    train_prior.train_prior(work, out, recipe)
    card.write_card(out, work, recipe)


def _train_companion(name, work, out, recipe):
    from sdsjax.toybox.scoring import card_companions
    from sdsjax.toybox.training.train_clip import train_clip
    from sdsjax.toybox.training.train_depth import train_depth

    if name == "clip":
        train_clip(work, out, recipe)
    else:
        train_depth(work, out, recipe, name=name)
    card_companions.write_card(name, out, work, recipe)


NETWORKS = (
    "prior",
    "flow",
    "multiview",
    "judge",
    "azimuth",
    "depth",
    "normals",
    "clip",
)


def _add_train(commands):
    command = commands.add_parser(
        "train", help="train an embedded network; resumes where it stopped"
    )
    command.add_argument("network", choices=NETWORKS)
    command.add_argument("--work", required=True, help="folder for checkpoints")
    command.add_argument("--out", required=True, help="folder for the weights")
    command.add_argument("--judge_steps", type=int, default=6000)
    kinds, defaults = {}, {}
    for network in NETWORKS:
        for name, value in _recipe_of(network)._asdict().items():
            kinds[name] = type(value)
            defaults.setdefault(name, {})[network] = value
    for name, kind in kinds.items():
        said = "; ".join(f"{net}: {value}" for net, value in defaults[name].items())
        command.add_argument(f"--{name}", type=kind, help=f"default {said}")
    command.set_defaults(run=_train)


def _measure(arguments):
    from sdsjax.toybox.scoring import card_companions

    work = Path(arguments.work)
    figures = card_companions.measure(arguments.network, arguments.folder, work)
    print(json.dumps(figures, indent=1))


def _add_measure(commands):
    command = commands.add_parser(
        "measure", help="measure a companion's card anew, on held-out renders"
    )
    command.add_argument("network", choices=("depth", "normals", "clip"))
    command.add_argument("--folder", required=True, help="its weights, or their name")
    command.add_argument("--work", required=True, help="folder for held-out renders")
    command.set_defaults(run=_measure)


def _judge(arguments):
    from sdsjax.models.loading import hub
    from sdsjax.toybox.scoring import flow, measure, measure_views

    asked = {"guidance_scale": arguments.guidance_scale, "steps": arguments.steps}
    more = {"count": arguments.count, "seed": arguments.seed} | asked
    root = hub.resolve(arguments.folder)
    kind = hub.kind_of(root)
    if kind == "multiview":
        found = measure_views.judge_views(hub.load_multiview(root), **more)
        shares, pictures, texts = found
        texts = [text for text in texts for _ in pictures[0]]
        pictures = pictures.reshape(-1, *pictures.shape[2:])
    elif kind == "stable_diffusion3":
        found = measure.judge_samples(flow.load_flow(root), draw=flow.sample, **more)
        shares, pictures, texts = found
    else:
        found = measure.judge_samples(hub.load_stable_diffusion(root), **more)
        shares, pictures, texts = found
    print(json.dumps(asked | shares, indent=1))
    if arguments.sheet:
        measure.sample_sheet(Path(arguments.sheet), pictures[:64], texts[:64])
        print(f"wrote {arguments.sheet}")


def _add_judge(commands):
    from sdsjax.toybox.scoring.measure import GUIDANCE_SCALE, STEPS

    command = commands.add_parser(
        "judge", help="sample the prior and let the judge name what the pictures show"
    )
    command.add_argument("--folder", default="toybox-sd", help="the prior to judge")
    command.add_argument(
        "--count", type=int, default=1000, help="samples, or view sets"
    )
    command.add_argument("--guidance_scale", type=float, default=GUIDANCE_SCALE)
    command.add_argument("--steps", type=int, default=STEPS, help="steps a sample")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--sheet", help="also draw the first 64 samples here")
    command.set_defaults(run=_judge)


def _views(arguments):
    from sdsjax.models.loading.hub import load_multiview
    from sdsjax.toybox.scoring.sample_views import view_sheet

    view_sheet(
        arguments.out,
        load_multiview(arguments.folder),
        arguments.prompts,
        guidance_scale=arguments.guidance_scale,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    print(f"wrote {arguments.out}")


def _add_views(commands):
    command = commands.add_parser(
        "views", help="draw a multi-view prior's samples beside the true views"
    )
    prompts = ("a blue house", "a white airplane", "a red mug", "a green chair")
    command.add_argument("--folder", required=True, help="a multi-view prior")
    command.add_argument("--out", default="views.png", help="picture file to write")
    command.add_argument("--prompts", nargs="+", default=prompts)
    command.add_argument("--guidance_scale", type=float, default=3.0)
    command.add_argument("--steps", type=int, default=40, help="DDIM steps a sample")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_views)


COMMANDS = (
    _add_sheet, _add_references, _add_train, _add_judge, _add_measure, _add_views,
)  # fmt: skip


def main(argv=None) -> int:
    """Runs one command; bad input prints one line and returns 2."""
    parser = argparse.ArgumentParser(
        prog="python -m sdsjax.toybox", description=__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
