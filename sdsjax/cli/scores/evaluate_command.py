"""The command line of `python -m sdsjax.evaluate`: numbers for finished runs.

    python -m sdsjax.evaluate runs/a                       CLIP similarity, R-precision
    python -m sdsjax.evaluate LIST --clip=FOLDER           of all assets of a list
    python -m sdsjax.evaluate runs/a --lpips=lpips-alex.safetensors

Nothing is trained. Of a run scores.json is written, and its section in report.html; of
a list its index too. A mistake is one line and exit status 2, before anything is
written; an asset that cannot be read leaves the others theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdsjax.cli.export_command import Parser, run_command, say_written
from sdsjax.cli.prompts import read_prompts
from sdsjax.cli.scores.lists import check_folder, is_run, prompt_of, read_assets
from sdsjax.training.config import ConfigError
from sdsjax.training.prompts.list_file import LIST, ListedAsset

TOYBOX = "toybox-clip"


class Job(NamedTuple):
    """A run to be measured: its directory, prompt and the captions it is found among.

    captions: [] for no R-precision; named: what to call them.
    """

    run: Path
    prompt: str
    captions: list[str]
    named: str


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sdsjax.evaluate",
        description="Measures finished runs by CLIP and LPIPS, without training.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="directories of runs, or of lists"
    )
    parser.add_argument(
        "--clip",
        metavar="FOLDER",
        help=f"CLIP's two towers in Hugging Face's layout; default {TOYBOX}",
    )
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="captions for R-precision, one a line; default a list's own prompts, of "
        "one run on the toybox its vocabulary's",
    )
    parser.add_argument(
        "--lpips",
        metavar="FILE",
        help=".safetensors or .npz of LPIPS (alex or vgg), or a folder of them",
    )
    return parser


def _captions_of(
    prompt: str, own: Sequence[str], given: Sequence[str], file: str | None
) -> tuple[list[str], str]:
    """Returns the captions among which a prompt is found, and their name."""
    from sdsjax.evaluation.caption_lists import toybox_captions, with_prompt
    from sdsjax.toybox.world.captions import CaptionError

    if file is not None:
        return with_prompt(prompt, given), file
    if len(own) > 1:
        return with_prompt(prompt, own), "the list's prompts"
    try:
        return toybox_captions(prompt), "the toybox's vocabulary"
    except CaptionError:
        return [prompt], ""


def _check_words(jobs: Sequence[Job]) -> None:
    """Raises ConfigError for a prompt or caption that toybox-clip does not know."""
    from sdsjax.toybox.world.captions import CaptionError, parse_caption

    texts = dict.fromkeys(t for job in jobs for t in (job.prompt, *job.captions))
    for text in texts:
        try:
            parse_caption(text)
        except CaptionError as error:
            raise ConfigError(
                f"{TOYBOX} knows the toybox's captions alone ({error}): name another "
                "scorer by --clip=FOLDER, such as a copy of openai/clip-vit-large-"
                "patch14"
            ) from error


def _jobs(asked: argparse.Namespace) -> tuple[list[Job], list[tuple[Path, list]]]:
    """Finds the runs that are to be measured, and the lists among what was named.

    Raises ConfigError.
    """
    from sdsjax.cli.scores.measuring import check_finished

    given: list[str] = []
    if asked.captions is not None:
        given = [line.prompt for line in read_prompts(Path(asked.captions), "captions")]
    jobs: dict[Path, Job] = {}
    lists: list[tuple[Path, list]] = []
    for folder in map(Path, asked.runs):
        check_folder(folder)
        if is_run(folder):
            check_finished(folder)
            assets = [ListedAsset(prompt_of(folder), "", folder, "finished")]
        else:
            assets = read_assets(folder)
            lists.append((folder, assets))
        done = [asset for asset in assets if asset.status == "finished"]
        if not done:
            raise ConfigError(f"{folder}: none of its {len(assets)} runs is finished")
        own = [asset.prompt for asset in assets]
        for asset in done:
            run = asset.folder.resolve()
            if run in jobs:
                raise ConfigError(f"{asset.folder} is named twice: name each run once")
            captions = _captions_of(asset.prompt, own, given, asked.captions)
            jobs[run] = Job(asset.folder, asset.prompt, *captions)
    return list(jobs.values()), lists


def evaluate(argv: list[str]) -> list[Path]:
    """Runs the command; returns the files. Raises what is one line for a user."""
    asked = _parser().parse_args(argv)
    jobs, lists = _jobs(asked)
    from sdsjax.cli.scores.measuring import read_clip, read_lpips
    from sdsjax.evaluation.records import SCORES, may_be_replaced

    for job in jobs:
        if not may_be_replaced(job.run):
            raise ConfigError(
                f"{job.run / SCORES} was not written by sdsjax: move it away"
            )
    if asked.clip is None or asked.clip == TOYBOX:
        _check_words(jobs)
    lpips = None if asked.lpips is None else read_lpips(asked.lpips)
    clip = read_clip(asked.clip or TOYBOX)
    written, failed = [], []
    for job in jobs:
        try:
            written += _measure(job, clip, lpips)
        except (ValueError, OSError, RuntimeError) as error:
            if len(jobs) == 1:
                raise
            failed.append(error)
            _say(f"{job.run} was not measured: {' '.join(str(error).split())}")
    for folder, assets in lists:
        _say_unfinished(assets)
        written += _write_index(folder, assets)
    if failed:
        raise failed[0]
    return written


def _measure(job: Job, clip, lpips) -> list[Path]:
    """Measures one run and writes what was found."""
    from sdsjax.cli.scores.measuring import measure_clip, measure_lpips, read_drawn
    from sdsjax.evaluation.records import read_record, write_record
    from sdsjax.exports.scores.section import replace_section

    drawn = read_drawn(job.run)
    sections = {"clip": measure_clip(drawn, clip, job.captions, job.named)}
    if lpips is not None:
        sections["lpips"], notes = measure_lpips(drawn, lpips)
        for note in notes:
            _say(f"{job.run}: {note}")
    written = [write_record(job.run, drawn.step, sections)]
    report = job.run / "report.html"
    if replace_section(report, read_record(job.run), job.run):
        written.append(report)
    return written


def _say(line: str) -> None:
    print(f"sdsjax: {line}", file=sys.stderr, flush=True)


def _say_unfinished(assets: Sequence[ListedAsset]) -> None:
    for asset in assets:
        if asset.status != "finished":
            _say(f"{asset.prompt!r} is {asset.status}: it has no numbers")


def _write_index(folder: Path, assets: Sequence[ListedAsset]) -> list[Path]:
    """Writes a list's index again, where it has one that shows no numbers yet."""
    from sdsjax.training.prompts.index_page import Entry, is_index, write_index

    index = folder / "index.html"
    if not (folder / LIST).is_file() or not is_index(index):
        return []
    entries = [Entry(a.prompt, a.folder, a.status, a.note) for a in assets]
    return [write_index(index, f"{len(entries)} prompts", entries)]


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    return run_command(lambda words: say_written(evaluate(words)), argv)
