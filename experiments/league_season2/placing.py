"""The standings of the second season: trials, shares, ranks and what is certain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from season import ALONG, COLUMNS, TUNE, Job, Plan, Price, job, share

from sdsjax.studies.contestants import ALIASES, ENTRIES
from sdsjax.studies.ranks import LEVEL, Ranking, bootstrap_ranks, groups
from sdsjax.studies.report import markdown_table
from sdsjax.studies.statistics import mean_error

Rows = Mapping[str, dict]


def trials(plan: Plan, column: str, name: str, rows: Rows) -> dict[float, float]:
    """The mean share over TUNE by setting, of complete trials."""
    found = {}
    for setting in ENTRIES[name].candidates:
        jobs = [job(plan, column, name, setting, p, 0, rows) for p in TUNE]
        if all(one.key() in rows for one in jobs):
            found[setting] = float(np.mean([share(rows[one.key()]) for one in jobs]))
    return found


def best(plan: Plan, column: str, name: str, rows: Rows) -> float | None:
    """The setting of the best trial; None while one is missing."""
    found = trials(plan, column, name, rows)
    if len(found) < len(ENTRIES[name].candidates):
        return None
    return max(found, key=lambda setting: found[setting])


class Standing(NamedTuple):
    """A column's ranked estimators.

    names: best first; jobs: name -> its runs by (prompt, seed); scores [names prompts],
    over the seeds that every name has whole; ranking: of names, in that order.
    """

    column: str
    names: list[str]
    jobs: dict[str, dict[tuple[str, int], Job]]
    scores: np.ndarray
    seeds: list[int]
    ranking: Ranking


def jobs_in(plan: Plan, column: str, name: str, rows: Rows) -> dict:
    """An estimator's reported runs by (prompt, seed), {} before its tuning's end."""
    try:
        setting = best(plan, COLUMNS[column].tuned_in, name, rows)
        if setting is None:
            return {}
        return {
            (prompt, seed): job(plan, column, name, setting, prompt, seed, rows)
            for prompt in plan.reported()
            for seed in range(plan.seeds)
        }
    except KeyError:  # no count of its step yet
        return {}


def standing(plan: Plan, column: str, rows: Rows) -> Standing | None:
    """The standing of a column; None where fewer than two estimators are whole."""
    prompts = plan.reported()
    jobs = {name: jobs_in(plan, column, name, rows) for name in plan.only}

    def whole(name: str, seed: int) -> bool:
        wanted = [jobs[name].get((prompt, seed)) for prompt in prompts]
        return all(one is not None and one.key() in rows for one in wanted)

    names = [name for name in plan.only if whole(name, 0)]
    if len(names) < 2:
        return None
    seeds = [s for s in range(plan.seeds) if all(whole(name, s) for name in names)]
    scores = np.array(
        [
            [
                np.mean([share(rows[jobs[name][p, s].key()]) for s in seeds])
                for p in prompts
            ]
            for name in names
        ]
    )
    order = np.argsort(-scores.mean(1), kind="stable")
    names, scores = [names[i] for i in order], scores[order]
    kept = {
        name: {(p, s): jobs[name][p, s] for p in prompts for s in seeds}
        for name in names
    }
    return Standing(column, names, kept, scores, seeds, bootstrap_ranks(scores))


def standings(plan: Plan, rows: Rows) -> list[Standing]:
    """The standings of the columns there are, along the dial."""
    found = (standing(plan, c, rows) for c in ALONG if c in plan.columns)
    return [one for one in found if one is not None]


def letters(found: Standing) -> dict[str, str]:
    """The letters of each estimator's groups: who shares one is not told apart."""
    out = dict.fromkeys(found.names, "")
    for letter, members in zip("abcdefghijkl", groups(found.ranking)):
        for index in members:
            out[found.names[index]] += letter
    return out


def title_of(plan: Plan, found: Standing) -> str:
    """A column's title; of one that is not whole, how many it has so far."""
    title, count = COLUMNS[found.column].title, len(found.names)
    return (
        title if count == len(plan.only) else f"{title} ({count} of {len(plan.only)})"
    )


def price_of(plan: Plan, column: str, name: str, rows: Rows) -> float:
    """The operations of a step that are charged in a column."""
    return rows[Price(COLUMNS[column].price, name, plan.views).key()]["flops"]


def mean_of(rows: list[dict], figure: str) -> float:
    """The mean of a figure over the runs in which it is defined."""
    known = [r["truth"][figure] for r in rows if r["truth"][figure] is not None]
    return float(np.mean(known)) if known else float("nan")


def cells(plan: Plan, found: Standing, index: int, rows: Rows) -> Iterator[str]:
    """An estimator's line of a column's table."""
    name = found.names[index]
    made = {pair: rows[one.key()] for pair, one in found.jobs[name].items()}
    first = next(iter(found.jobs[name].values()))
    yield name
    yield f"{ENTRIES[name].setting} {first.setting:g}"
    yield f"{price_of(plan, found.column, name, rows) / 1e9:.2f}"
    yield f"{first.steps}"
    mean, error = mean_error(found.scores[index])
    yield f"{mean:.3f} +- {error:.3f}" + _spread(plan, made, found.seeds)
    yield _against_sds(found, index)
    ranking = found.ranking
    yield f"{ranking.low[index]:g} to {ranking.high[index]:g}"
    yield letters(found)[name]
    yield f"{mean_of([*made.values()], 'iou'):.3f}"
    yield f"{mean_of([*made.values()], 'psnr'):.1f}"
    yield f"{mean_of([*made.values()], 'janus_rate'):.2f}"
    yield f"{np.mean([row['cpu_seconds'] for row in made.values()]):.1f}"
    wrong = sum(not row["finite"] for row in made.values())
    yield f"{len(made)}" + (f" ({wrong} not finite)" if wrong else "")


def _spread(plan: Plan, made: dict, seeds: list[int]) -> str:
    if len(seeds) < 2:
        return ""
    each = [np.std([share(made[p, s]) for s in seeds], ddof=1) for p in plan.reported()]
    return f" ({np.mean(each):.3f})"


def _against_sds(found: Standing, index: int) -> str:
    # of the same prompts and seeds
    if "sds" not in found.names or found.names[index] == "sds":
        return "-"
    apart = found.scores[index] - found.scores[found.names.index("sds")]
    mean, error = mean_error(apart)
    return f"{mean:+.3f} +- {error:.3f}"


HEADS = (
    "estimator", "setting", "GFLOP a step", "steps", "share of the ceiling", "- sds",
    "rank", "group", "IoU", "PSNR, dB", "Janus", "CPU s a run", "runs",
)  # fmt: skip


def separation(found: Standing) -> str:
    """A sentence: how far apart the estimators are, and how far they can be told."""
    means, count = found.scores.mean(1), len(found.names)
    errors = [
        mean_error(found.scores[i] - found.scores[j])[1]
        for i in range(count)
        for j in range(i)
    ]
    sure, pairs = found.ranking.certain_pairs(), count * (count - 1) // 2
    return (
        f"Means spread by {means.std(ddof=1):.3f} (first to last "
        f"{means[0] - means[-1]:.3f}), a difference has an error of "
        f"{np.median(errors):.3f} (median); {sure} of {pairs} pairs are certain."
    )


def column_lines(plan: Plan, found: Standing, rows: Rows) -> list[str]:
    """A column's table, and beneath it who beats whom how surely."""
    title = title_of(plan, found)
    seeds = ", ".join(map(str, found.seeds))
    lines = [f"**{title}**, seeds {seeds}. {separation(found)}", ""]
    made = [cells(plan, found, i, rows) for i in range(len(found.names))]
    lines += [*markdown_table(HEADS, made), ""]
    numbers = [f"{i + 1}" for i in range(len(found.names))]
    better = 100 * found.ranking.better
    chances = [
        [f"{i + 1} {name}"]
        + ["" if i == j else f"{better[i, j]:.0f}" for j in range(len(found.names))]
        for i, name in enumerate(found.names)
    ]
    heads = ["% of resamples better than", *numbers]
    return [*lines, *markdown_table(heads, chances), ""]


def tuning_lines(plan: Plan, rows: Rows) -> list[str]:
    """Every trial of the tuning."""
    made = []
    for column in dict.fromkeys(COLUMNS[c].tuned_in for c in plan.columns):
        for name in plan.only:
            try:
                found = trials(plan, column, name, rows)
            except KeyError:  # no count of its step yet
                continue
            if found:
                made.append(
                    [COLUMNS[column].title, f"{name}, {ENTRIES[name].setting}"]
                    + [f"{s:g}: {value:.3f}" for s, value in found.items()]
                )
    heads = "tuned on " + ", ".join(TUNE), "estimator", "share", "share"
    return markdown_table(heads, made)


def moves(found: list[Standing]) -> list[str]:
    """How much of the order each column shares with the one before it, and the last
    with all."""
    made = []
    for one, two in (*pairwise(found), *((one, found[-1]) for one in found[:-2])):
        both = [name for name in one.names if name in two.names]
        places = [[of.names.index(name) for name in both] for of in (one, two)]
        value = spearmanr(places[0], places[1]).statistic
        titles = (COLUMNS[of.column].title for of in (one, two))
        made.append([" to ".join(titles), f"{value:+.2f}"])
    return [*markdown_table(["from column to column", "rank correlation"], made), ""]


def table(plan: Plan, rows: Rows) -> str:
    """Markdown of all columns, "" while nobody is ranked."""
    found = standings(plan, rows)
    if not found:
        return ""
    lines = [
        f"Gaussians, a budget of {plan.sds_steps} steps of SDS, {plan.views} views a "
        f"step, learning rates x{plan.rate:g}; {plan.prompts} prompts. +-: standard "
        "error over prompts, in brackets the mean standard deviation over seeds. Rank: "
        f"{100 * LEVEL:.0f}% interval of a bootstrap over prompts; who shares a letter "
        "of `group` is not told apart. "
        + "; ".join(f"{alias} is {of}" for alias, of in ALIASES.items())
        + ", sample by sample.",
        "",
    ]
    for one in found:
        lines += column_lines(plan, one, rows)
    lines += [*moves(found), *tuning_lines(plan, rows)]
    return "\n".join(lines) + "\n"
