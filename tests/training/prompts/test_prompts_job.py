"""A list of prompts: kept apart where one fails, continued where it was stopped."""

import json
from pathlib import Path

import pytest
import tiny_run
from poison import poison

from sdsjax.cli.prompts import workdirs
from sdsjax.exports import ExportError
from sdsjax.runs.lock import RunError
from sdsjax.runs.signals import Interrupted, Stop
from sdsjax.training import session, train
from sdsjax.training.config import ConfigError
from sdsjax.training.prompts import batch
from sdsjax.training.prompts.job import Request, run_prompts

PROMPTS = ("a red ball", "a blue ball", "a green ball")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")


@pytest.fixture
def no_exports(monkeypatch):
    """Reports are what they would be by name only; statuses are kept by folder."""
    said = {}

    def export_all(folder, *_, status, **__):
        said[folder.name] = status
        return {}

    monkeypatch.setattr(session.exports, "export_all", export_all)
    return said


def requests(root, prompts=PROMPTS, **overrides):
    configs = [tiny_run.config(prompt=prompt, **overrides) for prompt in prompts]
    folders = workdirs(root, "ssd-image", configs)
    return [
        Request(config, folder, ["--config=ssd:image"], f"list.txt:{number}")
        for number, (config, folder) in enumerate(zip(configs, folders), 1)
    ]


def run(asked, **options):
    return run_prompts(
        asked, asked[0].workdir.parent, **{"assets_per_device": 2, **options}
    )


def digests(asked) -> list[str]:
    return [tiny_run.final_digest(request.workdir) for request in asked]


@pytest.mark.slow
def test_one_that_diverges_leaves_the_others(tmp_path, monkeypatch, no_exports, capsys):
    whole = requests(tmp_path / "whole")
    run(whole, assets_per_device=3)
    capsys.readouterr()
    asked = requests(tmp_path / "many")
    with monkeypatch.context() as patch:
        poison(patch, lane=1, at=14)
        outcomes = run(asked, assets_per_device=3)
    assert [o.status for o in outcomes] == ["finished", "diverged", "finished"]
    assert outcomes[1].error.exit_code == 3
    assert "step 14; step 13 was the last good one" in str(outcomes[1].error)
    others = [asked[0], asked[2]]
    assert digests(others) == digests([whole[0], whole[2]])
    bad = asked[1].workdir
    assert no_exports[bad.name] == "aborted"
    assert not (bad / "finished.json").exists()
    # the newest checkpoint is of before, and no row is of after
    assert sorted(p.name for p in (bad / "checkpoints").iterdir()) == ["10"]
    rows = (bad / "history.jsonl").read_text().splitlines()
    assert max(json.loads(row)["step"] for row in rows) < 14
    page = (tmp_path / "many" / "index.html").read_text()
    assert "diverged" in page
    assert "2 finished, 1 diverged" in page
    # the same again, without the poison: only that one is trained, from there
    capsys.readouterr()
    outcomes = run(asked, assets_per_device=3)
    assert [outcome.skipped for outcome in outcomes] == [True, False, True]
    assert "continuing from step 10" in capsys.readouterr().err
    # alone in its step its sums are rounded otherwise than among three
    assert outcomes[1].status == "finished"
    assert digests(others) == digests([whole[0], whole[2]])


def test_where_all_diverge_the_chunk_ends(tmp_path, monkeypatch, no_exports):
    asked = requests(tmp_path / "many", prompts=PROMPTS[:1], steps=2000)
    with monkeypatch.context() as patch:
        poison(patch, lane=0, at=7)
        (outcome,) = run(asked)
    assert outcome.status == "diverged"
    assert no_exports == {asked[0].workdir.name: "aborted"}


@pytest.mark.slow
def test_stopped_in_the_middle_of_saving_it_ends_the_same(
    tmp_path, monkeypatch, no_exports, capsys
):
    whole = requests(tmp_path / "whole")
    run(whole)
    asked = requests(tmp_path / "many")
    saved = []

    def settle(self, index):
        saved.append((self.step, index))
        if (self.step, index) == (20, 1):  # the second of the chunk, not the first
            raise KeyboardInterrupt
        return kept(self, index)

    kept = batch.Batch.settle
    with monkeypatch.context() as patch:
        patch.setattr(batch.Batch, "settle", settle)
        with pytest.raises(KeyboardInterrupt):
            run(asked)
    steps = [
        sorted(p.name for p in (r.workdir / "checkpoints").iterdir()) for r in asked[:2]
    ]
    assert steps == [["10", "20"], ["10"]]
    assert not asked[2].workdir.exists()
    assert not (asked[0].workdir / "lock.json").exists()
    capsys.readouterr()
    outcomes = run(asked)
    said = capsys.readouterr().err
    assert said.count("continuing from step 10") == 2
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    assert digests(asked) == digests(whole)
    # and once more: nothing is trained, or built
    monkeypatch.setattr(train, "build", lambda *_: pytest.fail("it was built again"))
    assert all(outcome.skipped for outcome in run(asked))
    assert "3 of 3 are finished already" in capsys.readouterr().err


def test_a_signal_saves_all_and_says_so(tmp_path, monkeypatch, no_exports):
    asked = requests(tmp_path / "many", prompts=PROMPTS[:2])
    advance = batch.Batch.advance

    def stop_at(self, train_step):
        if self.step == 12:
            monkeypatch.setattr(Stop, "requested", 15, raising=False)
        return advance(self, train_step)

    monkeypatch.setattr(batch.Batch, "advance", stop_at)
    monkeypatch.setattr(Stop, "__init__", lambda self: None)
    monkeypatch.setattr(Stop, "requested", None, raising=False)
    with pytest.raises(Interrupted, match="SIGTERM at step 13"):
        run(asked)
    assert set(no_exports.values()) == {"stopped"}
    for request in asked:
        assert (request.workdir / "checkpoints" / "13" / "manifest.json").exists()


def test_what_is_not_exported_is_named_and_made_by_the_same_command(
    tmp_path, monkeypatch
):
    asked = requests(tmp_path / "many", prompts=PROMPTS[:2], steps=5)

    def export_all(folder, *_, **__):
        if folder == asked[0].workdir:
            raise ExportError("no space")
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(session.exports, "export_all", export_all)
        outcomes = run(asked)
    assert [outcome.status for outcome in outcomes] == ["not exported", "finished"]
    assert outcomes[0].error.exit_code == 5
    monkeypatch.setattr(
        train, "optimise", lambda *_: pytest.fail("it was trained again")
    )
    monkeypatch.setattr(session.exports, "export_all", lambda *_, **__: {})
    outcomes = run(asked)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 2


def test_a_directory_in_use_fails_alone(tmp_path, no_exports):
    asked = requests(tmp_path / "many", prompts=PROMPTS[:2], steps=5)
    frozen = session.to_json(asked[0].config)
    with train.RunDirectory(asked[0].workdir, frozen):
        outcomes = run(asked)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert "in use by process" in str(outcomes[0].error)


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, no_exports):
    root = tmp_path / "many"
    asked = requests(root, steps=5)
    asked[2].workdir.mkdir(parents=True)
    (asked[2].workdir / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="was not made by sdsjax"):
        run(asked)
    assert [path.name for path in root.iterdir()] == [asked[2].workdir.name]
    (asked[2].workdir / "mine.txt").unlink()
    (root / "index.html").write_text("<p>mine</p>")
    with pytest.raises(RunError, match=r"index\.html was not made by sdsjax"):
        run(asked)
    assert (root / "index.html").read_text() == "<p>mine</p>"
    exact = requests(tmp_path / "b", prior__name="empirical", prior__view_spread=0.0)
    with pytest.raises(ConfigError, match="run them one by one"):
        run(exact)
    assert not (tmp_path / "b").exists()


def test_a_prompt_that_cannot_be_encoded_is_named(tmp_path, monkeypatch, no_exports):
    asked = requests(tmp_path / "many", steps=5)
    from sdsjax.training.prompts import job

    build = job.build_source

    def picky(config, representation):
        if "green" in config.prompt:
            raise ValueError("no token for green")
        return build(config, representation)

    monkeypatch.setattr(job, "build_source", picky)
    with pytest.raises(ConfigError, match=r"list.txt:3: .*no token for green"):
        run(asked)
    assert not Path(tmp_path / "many").exists()
