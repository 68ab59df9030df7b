"""The table of experiments/prompts_throughput, on jobs whose times are known."""

import json

import pytest
from experiment_folder import load


@pytest.fixture
def throughput():
    return load("prompts_throughput")


def test_together_is_compared_with_the_sum_of_as_many_alone(
    throughput, tmp_path, monkeypatch
):
    asked = []

    def job(plan, chosen):
        asked.append(len(chosen))
        # 10 s to begin and 5 s each, half of it the processor's; alone: one more
        seconds = 10.0 + 5.0 * len(chosen) + (len(chosen) == 1)
        return {"clock": seconds, "processor": seconds / 2}

    monkeypatch.setattr(throughput, "job", job)
    throughput.main(["--counts", "2", "4", "--repeats=2", "--out", str(tmp_path)])
    assert asked == [2, 1, 1, 4, 1, 1] * 2
    found = json.loads((tmp_path / "small.json").read_text())
    row = found["rows"][0]
    assert throughput.ratio(row, "2", "clock") == pytest.approx(20 / 32)
    assert throughput.ratio(row, "4", "processor") == pytest.approx(30 / 64)
    text = (tmp_path / "small.md").read_text()
    # 4 assets in 30 s are 480 an hour, and 225 in 64 s
    assert "| 4 | 480 | 225 | 0.47 | 960 | 450 | 0.47 |" in text


def test_prompts_are_different_things_of_the_toybox(throughput):
    from sdsjax.toybox.world.captions import parse_caption

    names = throughput.prompts(16)
    assert len(set(names)) == 16
    assert all(parse_caption(name)[1] is None for name in names)
