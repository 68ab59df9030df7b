"""The toybox's commands: `python -m sdsjax.toybox COMMAND`."""

import argparse
import sys

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


COMMANDS = (_add_sheet,)


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
