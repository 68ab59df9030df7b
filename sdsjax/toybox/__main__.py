"""The toybox's commands: `python -m sdsjax.toybox COMMAND`."""

import argparse
import json
import sys
from pathlib import Path

from sdsjax.toybox.sheet import contact_sheet


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


def _train(arguments):
    from sdsjax.toybox import card, pool, train_prior
    from sdsjax.toybox.judge import load_judge as judge_first

    work, out = Path(arguments.work), Path(arguments.out)
    recipe = train_prior.PriorRecipe()
    changed = {
        name: getattr(arguments, name)
        for name in recipe._fields
        if getattr(arguments, name) is not None
    }
    recipe = recipe._replace(**changed)
    if arguments.network == "judge":
        from sdsjax.toybox import judge

        pictures = pool.build_pool(
            work / "pool", singles=recipe.singles, pairs=recipe.pairs, seed=recipe.seed
        )
        params = judge.train_judge(work, pictures, steps=arguments.judge_steps)
        judge.save_judge(params, out)
    else:
        judge_first()  # before hours of training, not after
        train_prior.train_prior(work, out, recipe)
        card.write_card(out, work, recipe)
    print(f"wrote {out}")


def _add_train(commands):
    from sdsjax.toybox.train_prior import PriorRecipe

    command = commands.add_parser(
        "train", help="train the embedded prior or its judge; resumes where it stopped"
    )
    command.add_argument("network", choices=("prior", "judge"))
    command.add_argument("--work", required=True, help="folder for checkpoints")
    command.add_argument("--out", required=True, help="folder for the weights")
    command.add_argument("--judge_steps", type=int, default=6000)
    for name, value in PriorRecipe()._asdict().items():
        command.add_argument(f"--{name}", type=type(value), help=f"default {value}")
    command.set_defaults(run=_train)


def _judge(arguments):
    from sdsjax.models.hub import load_stable_diffusion
    from sdsjax.toybox import measure

    networks = load_stable_diffusion(arguments.folder)
    shares, pictures, texts = measure.judge_samples(
        networks,
        count=arguments.count,
        guidance_scale=arguments.guidance_scale,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    asked = {"guidance_scale": arguments.guidance_scale, "steps": arguments.steps}
    print(json.dumps(asked | shares, indent=1))
    if arguments.sheet:
        measure.sample_sheet(Path(arguments.sheet), pictures[:64], texts[:64])
        print(f"wrote {arguments.sheet}")


def _add_judge(commands):
    from sdsjax.toybox.measure import GUIDANCE_SCALE, STEPS

    command = commands.add_parser(
        "judge", help="sample the prior and let the judge name what the pictures show"
    )
    command.add_argument("--folder", default="toybox-sd", help="the prior to judge")
    command.add_argument("--count", type=int, default=1000, help="samples")
    command.add_argument("--guidance_scale", type=float, default=GUIDANCE_SCALE)
    command.add_argument("--steps", type=int, default=STEPS, help="DDIM steps a sample")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--sheet", help="also draw the first 64 samples here")
    command.set_defaults(run=_judge)


COMMANDS = (_add_sheet, _add_train, _add_judge)


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
