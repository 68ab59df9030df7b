"""The league's bookkeeping on toybox-sd: equal calls, trials, resuming, the table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_folder import modules

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.files.atomic import read_rows
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.runner import run
from sdsjax.studies.statistics import ceiling_scores
from sdsjax.toybox.world.captions import parse_caption

NAMES = ("entries", "ranking", "standings", "quality")


@pytest.fixture(scope="module")
def league():
    with modules("league", NAMES) as found:
        yield found


@pytest.fixture
def plan(league):
    return league["entries"].Plan(
        calls=48, batch=2, prompts=2, seeds=2, rates=(1.0, 3.0)
    )


def invented(league, monkeypatch):
    """Runs cost nothing: ssd is better than sds, at its second setting and rate 3."""
    calls = []

    def perform(self, job, root):
        calls.append(job)
        value = 0.5 + 0.1 * (job.estimator == "ssd") + 0.05 * (job.rate == 3.0)
        value += 0.02 * (job.setting == 300.0) + 0.01 * job.seed
        truth = {"iou": value, "psnr": 20 * value, "ssim": 0.5, "chamfer": 0.1}
        truth["janus_rate"] = None
        row = {**job._asdict(), "steps": 12, "cpu_seconds": 1.0}
        return row | {"truth": truth}

    monkeypatch.setattr(league["quality"].LeagueRuns, "perform", perform)
    return calls


def test_every_estimator_plays_with_equal_calls_on_other_prompts(league, plan):
    entries = league["entries"]
    played = set(entries.ENTRIES) | set(entries.ALIASES)
    assert played == set(ESTIMATORS) - {"dds", "pds"}  # they edit an asset
    assert not set(entries.TUNE) & set(entries.REPORT)
    for prompt in (*entries.TUNE, *entries.REPORT):
        parse_caption(prompt)
        assert ceiling_scores(entries.CEILINGS)[prompt]["iou"] > 0.9
    for entry in entries.ENTRIES.values():
        used = plan.steps(entry) * plan.batch * entry.calls
        assert 0 <= plan.calls - used < plan.batch * entry.calls


@pytest.mark.slow
def test_counted_calls_are_those_made(league):
    """One estimate and, where there is one, the learning after it: branches asked of
    the prior, a call of the adapter, and three for its forward and backward pass."""
    schedule = NoiseSchedule.scaled_linear()
    means, one = jnp.array([[0.5, -0.5], [-1.0, 1.0]]), jnp.ones(2)
    prior = gaussian_mixture(schedule, one, means, one, [True, False])
    made = []

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        made.append(len(branches))
        return prior.noise(z_t, t, view, branches)

    spied = prior._replace(noise=noise)
    z, t, key = means[0], jnp.int32(300), jax.random.key(0)
    for name, entry in league["entries"].ENTRIES.items():
        made.clear()
        estimator = entry.make(schedule, entry.candidates[0])
        state = estimator.init(prior, key, z)
        with jax.disable_jit():  # a scan's body would be counted once
            estimator.estimate(spied, key, state, z, t, None)
        adapter = 1 + 3 if name == "vsd" else 0
        assert sum(made) + adapter == entry.calls, name


@pytest.mark.slow
def test_an_alias_is_the_same_direction(league):
    schedule = NoiseSchedule.scaled_linear()
    means, one = jnp.array([[0.5, -0.5], [-1.0, 1.0]]), jnp.ones(2)
    prior = gaussian_mixture(schedule, one, means, one, [True, False])
    makers = {name: ESTIMATORS[name](schedule) for name in ("csd", "mode_disengaging")}
    for name in ("sds", "denoised_l2"):
        makers[name] = ESTIMATORS[name](schedule, guidance_scale=7.5)
    key, z, found = jax.random.key(1), means[1], {}
    for name, estimator in makers.items():
        state = estimator.init(prior, key, z)
        ts = jnp.array([50, 400, 900])
        found[name] = jax.vmap(
            lambda t, e=estimator, s=state: e.estimate(prior, key, s, z, t, None).grad
        )(ts)
    for alias, name in league["entries"].ALIASES.items():
        np.testing.assert_allclose(found[alias], found[name], rtol=1e-4, atol=1e-6)


def run_league(league, plan, path, minutes=60.0):
    """The rows of sds and ssd, and no report: nobody draws the truth."""
    experiment = league["quality"].experiment()
    options = ["--out", str(path.parent), "--runs", str(path.parent)]
    plan = plan._replace(only=("sds", "ssd"))
    made = experiment._replace(small=plan, table=None, stem=path.stem)
    run([*options, "--minutes", str(minutes)], made)


def test_tunes_reports_and_resumes(league, plan, monkeypatch, tmp_path):
    calls, path = invented(league, monkeypatch), tmp_path / "runs.jsonl"
    run_league(league, plan, path)
    assert len(calls) == 2 * (3 * 2 + 2 * 2)  # trials x prompts, prompts x seeds
    assert {job.prompt for job in calls[:6]} == set(league["entries"].TUNE)
    done = read_rows(path, "key")
    assert league["standings"].best("ssd", plan, done) == (300.0, 3.0)
    assert league["standings"].order(plan, done) == ["ssd", "sds"]
    # a crash in the middle of a line costs that run, and only that
    path.write_text(path.read_text()[:-40])
    run_league(league, plan, path)
    assert len(calls) == 21
    assert read_rows(path, "key") == done
    # no run is begun once the time is up
    path.unlink()
    with pytest.raises(SystemExit, match="holds no run yet"):
        run_league(league, plan, path, minutes=-1)
    assert len(calls) == 21


def test_table_ranks_what_is_done(league, plan, monkeypatch, tmp_path):
    invented(league, monkeypatch)
    path = tmp_path / "runs.jsonl"
    run_league(league, plan, path)
    done = read_rows(path, "key")
    text = league["standings"].table(plan, done)
    rows = [line for line in text.splitlines() if line.startswith("| s")]
    assert [row.split(" | ")[0] for row in rows[:2]] == ["| ssd", "| sds"]
    assert "| M 300 | x3 |" in rows[0]
    # seeds differ by .01 of IoU and .2 dB: shares by .0094 and .0085, over sqrt 2
    assert "(0.006)" in rows[0]
    assert "| ssd 300, rates x3 **chosen** |" in text
    # .12 of IoU and 2.4 dB on both seeds, over the ceilings .978, 23.3 and .986, 29.0
    assert "| ssd | +0.108 +- 0.005 |" in text
    # without all of its first seed an estimator is not ranked
    kept = {k: v for k, v in done.items() if "a blue house" not in k or "ssd" not in k}
    assert league["standings"].order(plan, kept) == ["sds"]
    assert json.dumps(done)  # plain numbers throughout


@pytest.mark.slow
def test_the_rank_correlation_is_that_of_the_order(league):
    rank = league["ranking"].rank_correlation
    noise = [1.0, 2.0, 3.0, 400.0, 5000.0]
    assert rank(noise, [0.1, 0.2, 0.3, 0.31, 0.9])[0] == pytest.approx(1.0)
    assert rank(noise, [9.0, 8.0, 7.0, 6.9, 1.0])[0] == pytest.approx(-1.0)
    # by hand: ranks 2 1 4 3 5 against 1 .. 5 differ by 1 1 1 1 0: 1 - 6 * 4 / (5 * 24)
    value, low, high = rank(noise, [0.2, 0.1, 0.4, 0.3, 0.5])
    assert value == pytest.approx(0.8)
    assert -1 <= low < value < high <= 1
