"""A camera instead of view words, four views together instead of one: see README.md.

SDS and SSD on toybox-mv with groups of four views and with single views, each at the
best of its settings on the tuning prompts, beside what run.py measured on view words.
The rows of other weights than those embedded now are left where they are and not
reported, so that a new milestone is measured from the first prompt on.

    python experiments/toybox_quality/run.py --multiview          # small: minutes
    python experiments/toybox_quality/run.py --multiview --full   # 84 runs
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jobs
import numpy as np
from PIL import Image

from sdsjax.files.atomic import read_rows
from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Run
from sdsjax.studies.statistics import (
    ceiling_scores,
    paired_difference,
    share_of_ceiling,
)

HERE = Path(__file__).resolve().parent
FIGURES = {"iou": 3, "psnr": 1, "ssim": 3, "chamfer": 3, "janus_rate": 2}


class Case(NamedTuple):
    """A prior and an estimator: the config, the key that is tuned, other keys."""

    config: str
    tuned: str
    said: Mapping[str, Any] = {}


ONE_VIEW = {"prior.group": 1}
GUIDANCE, THRESHOLD = "estimator.guidance_scale", "estimator.threshold"
CASES = {
    "ssd, groups": Case("ssd:mv", THRESHOLD),
    "sds, groups": Case("sds:mv", GUIDANCE),
    "ssd, single views": Case("ssd:mv", THRESHOLD, ONE_VIEW),
    "sds, single views": Case("sds:mv", GUIDANCE, ONE_VIEW),
}
# the rows of run.py, at the settings that it chose
WORDS = {"ssd, view words": ("ssd", 500.0), "sds, view words": ("sds", 7.5)}
# from which each differs in one thing
AGAINST = {
    "ssd, groups": ("ssd, view words", "sds, groups", "ssd, single views"),
    "sds, groups": ("sds, view words", "sds, single views"),
    "ssd, single views": ("ssd, view words",),
    "sds, single views": ("sds, view words",),
}


class Plan(NamedTuple):
    """Prompts to tune and report on; case -> settings; steps (None: the config's)."""

    tune: tuple[str, ...]
    report: tuple[str, ...]
    settings: Mapping[str, tuple[float, ...]]
    steps: int | None = None


FULL = Plan(
    jobs.FULL.tune,
    jobs.FULL.report,
    {
        "ssd, groups": (300.0, 500.0, 700.0),
        "sds, groups": (3.0, 7.5),
        "ssd, single views": (500.0, 700.0),
        "sds, single views": (3.0, 7.5),
    },
)
SMALL = Plan(
    jobs.SMALL.tune,
    jobs.SMALL.report,
    {"ssd, groups": (500.0,), "sds, groups": (7.5,)},
    steps=jobs.SMALL.steps,
)


class Job(NamedTuple):
    """One run; weights: the first digits of their sha256."""

    case: str
    setting: float
    prompt: str
    weights: str

    def key(self) -> str:
        return (
            f"{self.case} {self.setting:g} | {self.prompt} | toybox-mv {self.weights}"
        )

    def folder(self, root: Path) -> Path:
        words = f"{self.case}-{self.setting:g}-{self.prompt}-{self.weights}"
        return root / words.replace(" ", "-").replace(",", "")


def embedded() -> str:
    """The first eight digits of the sha256 of toybox-mv's network, as it is shipped."""
    from sdsjax.files.fingerprints import fingerprint
    from sdsjax.models.loading.hub import BUILT_IN

    weights = next((BUILT_IN / "toybox-mv" / "unet").glob("*.safetensors"))
    return fingerprint(weights).partition(":")[2][:8]


def best(plan: Plan, case: str, rows: Mapping, weights: str) -> float | None:
    """The setting with the best median share of the ceiling over the tuning prompts.

    None while a tuning run is missing.
    """
    ceilings, shares = ceiling_scores(HERE / "results" / "full.jsonl"), {}
    for setting in plan.settings[case]:
        keys = [Job(case, setting, p, weights).key() for p in plan.tune]
        if any(key not in rows for key in keys):
            return None
        found = zip(plan.tune, (rows[key]["truth"] for key in keys))
        shares[setting] = statistics.median(
            share_of_ceiling(truth, ceilings[p]) for p, truth in found
        )
    return max(shares, key=lambda setting: shares[setting])


def chosen_setting(plan: Plan, case: str, rows: Mapping) -> float | None:
    """The best setting of the newest milestone that was tuned; None without any.

    Weights that were not tuned anew are reported at the setting of those before them.
    """
    milestones = dict.fromkeys(row["weights"] for row in rows.values())
    found = (best(plan, case, rows, weights) for weights in reversed(milestones))
    return next((setting for setting in found if setting is not None), None)


def all_jobs(run: Run) -> Iterator[tuple[str, Job]]:
    """Case by case: the tuning, then the reported prompts at the setting it chose."""
    plan, weights = run.plan, embedded()
    for case, settings in plan.settings.items():
        for setting in settings:
            for prompt in plan.tune:
                job = Job(case, setting, prompt, weights)
                yield job.key(), job
        chosen = best(plan, case, run.rows, weights)
        if chosen is None:  # the time is over
            return
        for prompt in plan.report:
            job = Job(case, chosen, prompt, weights)
            yield job.key(), job


def worker(run: Run):
    """Runs a job by the main program, with the least exports."""
    import sdsjax

    def perform(job: Job) -> dict:
        print(job.key(), file=sys.stderr, flush=True)
        case = CASES[job.case]
        said = {"preview_every": 0, "checkpoint_every": 0, **case.said}
        said |= {"exports.turntable_frames": 8, "exports.mesh_resolution": 24}
        said[case.tuned] = job.setting
        if run.plan.steps is not None:
            said["steps"] = run.plan.steps
        folder = job.folder(run.workdir / run.stem)
        asset = sdsjax.generate(job.prompt, case.config, workdir=folder, **said)
        metrics = asset.metrics
        scores = {"truth": metrics["truth"], "seconds": metrics.get("seconds")}
        return {**job._asdict(), **scores}

    return perform


class Scores(NamedTuple):
    """What a case is called in a table, and the scores of each prompt."""

    name: str
    of: dict[tuple[str], dict]


def reported(run: Run) -> dict[str, Scores]:
    """The scores of the cases that are whole, those on view words last."""
    plan, rows, out = run.plan, run.rows, {}
    weights = list(rows.values())[-1]["weights"]
    for case in plan.settings:
        chosen = chosen_setting(plan, case, rows)
        if chosen is not None:
            keys = {(p,): Job(case, chosen, p, weights).key() for p in plan.report}
            name = f"{case}, {CASES[case].tuned.split('.')[1]} {chosen:g}"
            out |= _whole(case, name, keys, rows)
    before = read_rows(HERE / "results" / "full.jsonl", "key")
    # runs of other lengths are not compared
    for case, (estimator, setting) in WORDS.items() if plan.steps is None else ():
        keys = {(p,): jobs.Job(estimator, setting, p, 0).key() for p in plan.report}
        out |= _whole(case, case, keys, before)
    return out


def _whole(case: str, name: str, keys: Mapping, rows: Mapping) -> dict[str, Scores]:
    # nothing where a prompt is missing
    if any(key not in rows for key in keys.values()):
        return {}
    return {case: Scores(name, {pair: rows[k]["truth"] for pair, k in keys.items()})}


def _median(scores: Scores, figure: str) -> str:
    known = [s[figure] for s in scores.of.values() if s[figure] is not None]
    return f"{statistics.median(known):.{FIGURES[figure]}f}" if known else "-"


def _differences(found: Mapping[str, Scores], figure: str) -> Iterator[tuple[str, ...]]:
    digits = FIGURES[figure]
    for case, others in AGAINST.items():
        for other in others:
            if case not in found or other not in found:
                continue
            one, two = (
                {pair: scores[figure] for pair, scores in found[name].of.items()}
                for name in (case, other)
            )
            mean, error, count = paired_difference(one, two)
            apart = f"{mean:+.{digits}f} +- {error:.{digits}f} ({count} prompts)"
            yield f"{case} - {other}", figure, apart


def table(run: Run) -> str:
    """Markdown: medians, each prompt's IoU and PSNR, differences prompt by prompt."""
    found = reported(run)
    if not any(case in found for case in CASES):
        return ""
    lines = markdown_table(
        ("median over the prompts", *FIGURES),
        [(s.name, *(_median(s, f) for f in FIGURES)) for s in found.values()],
    )
    ceilings = ceiling_scores(HERE / "results" / "full.jsonl")
    for figure in ("iou", "psnr"):
        made = [
            (p, *(f"{s.of[(p,)][figure]:.{FIGURES[figure]}f}" for s in found.values()),
             f"{ceilings[p][figure]:.{FIGURES[figure]}f}")
            for p in run.plan.report
        ]  # fmt: skip
        lines += ["", *markdown_table((figure, *found, "ceiling"), made)]
    apart = [row for figure in ("iou", "psnr") for row in _differences(found, figure)]
    lines += ["", *markdown_table(("mean difference", "figure", "of pairs"), apart)]
    return "\n".join(lines) + "\n"


def sheet(run: Run) -> None:
    """Draws a row a prompt: truth, SSD on view words, on groups; five views each.

    The first two are cut out of run.py's picture, whose third parts are truth, SDS and
    SSD.
    """
    if run.plan.report != FULL.report or "ssd, groups" not in reported(run):
        return
    weights = list(run.rows.values())[-1]["weights"]
    chosen = chosen_setting(run.plan, "ssd, groups", run.rows)
    words = np.asarray(Image.open(HERE / "results" / "full.png").convert("RGB"))
    height, width = words.shape[0] // len(FULL.report), words.shape[1] // 3
    lines = []
    for index, prompt in enumerate(run.plan.report):
        job = Job("ssd, groups", chosen, prompt, weights)
        views = job.folder(run.workdir / run.stem) / "views.png"
        if not views.exists():
            return
        # the upper half is the asset and the lower half the truth
        now = np.asarray(Image.open(views).convert("RGB").reduce(2))
        row = words[index * height : (index + 1) * height]
        lines.append(np.hstack([row[:, :width], row[:, -width:], now[:height]]))
    Image.fromarray(np.concatenate(lines)).save(run.file(".png"), optimize=True)
