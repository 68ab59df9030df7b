"""How a list of prompts ends, and what the dry run says of memory."""

from types import SimpleNamespace

import jax
import pytest
from tiny_run import gaussians

from sdsjax.cli import budget, prompts
from sdsjax.exports.written_files import ExportError
from sdsjax.training.prompts.job import Outcome, Request
from sdsjax.training.session import Diverged


def ended(*errors):
    places = (f"list.txt:{number}" for number in range(1, 9))
    requests = [Request(None, None, [], place) for place in places]
    return [Outcome(one, error) for one, error in zip(requests, errors)]


def test_all_well_is_silence(capsys):
    assert prompts.report(ended(None, None)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ((ExportError("no\nroom"), None), 5),
        ((ExportError("no\nroom"), MemoryError()), 5),  # the first that failed
        ((MemoryError(), ExportError("no\nroom")), 1),
        ((MemoryError(), Diverged("at step 3")), 3),  # but of divergence above all
    ],
)
def test_the_status_of_a_list_is_of_what_went_wrong(errors, status, capsys):
    assert prompts.report(ended(*errors)) == status
    lines = capsys.readouterr().err.splitlines()
    bad = [error for error in errors if error is not None]
    assert len(lines) == len(bad) + 1
    assert lines[-1] == f"sdsjax: {2 - len(bad)} of 2 assets are finished"
    if errors[0] is not None and isinstance(errors[0], ExportError):
        assert lines[0] == "sdsjax: error: list.txt:1: not exported: no room"
    if isinstance(errors[1], Diverged):
        assert lines[1] == "sdsjax: error: list.txt:2: diverged: at step 3"


def test_memory_that_is_not_there_is_said_with_what_to_lower(monkeypatch):
    """A prior of 3 GiB, four views on two devices that keep 1 GiB each, 1 of states."""
    config, gib = gaussians(batch_size=4), 2**30
    device = SimpleNamespace(
        device_kind="TPU v5e", platform="tpu", memory_stats=lambda: limits
    )
    mesh = SimpleNamespace(
        shape={"data": 2, "model": 2},
        devices=SimpleNamespace(size=4, flat=[device] * 4),
    )
    monkeypatch.setattr(jax, "devices", lambda: [device] * 4)
    limits = {"bytes_limit": 6 * gib}
    lines = budget.memory_plan(config, 3 * gib, 1.0 * gib, gib, [mesh])
    assert lines[0] == "devices: 4 of 4 device(s) (TPU v5e), data 2 x model 2"
    assert lines[1].startswith("memory: about 6.00 GiB a device (prior, optimizer")
    assert "residuals of 2 view(s)" in lines[1]
    assert lines[2].startswith("a device holds 3.000 GiB of the prior")
    assert 'split 2 ways over "model"' in lines[2]
    assert len(lines) == 3
    limits = {"bytes_limit": 5 * gib}
    last = budget.memory_plan(config, 3 * gib, 1.0 * gib, gib, [mesh])[-1]
    assert last.startswith("this will not fit: 6.00 GiB a device, and TPU v5e has 5.00")
    assert "(mesh.model, now 2)" in last


def test_what_weights_elsewhere_cost_is_as_published():
    """DeepFloyd's encoder is the identity; bfloat16 keeps half; XL by its picture."""
    deepfloyd = budget.published_cost("deepfloyd", "float32")
    assert deepfloyd.operations == deepfloyd.network == 2 * 2879e9
    assert deepfloyd.residuals == 0
    for name, parameters in (
        ("stable_diffusion", 949_564_587),
        ("multiview", 951_226_027),
    ):
        whole = budget.published_cost(name, "float32")
        half = budget.published_cost(name, "bfloat16")
        assert whole.parameters == parameters
        assert half.residuals == whole.residuals / 2
        assert whole.operations > whole.network
    third = budget.published_cost("stable_diffusion3", "float32")
    assert third.network == 2 * 2443e9
    small, large, beyond = (
        budget.published_cost("sdxl", "float32", xl_size=side)
        for side in (500, 769, 2000)
    )
    assert small.network == 2 * 1580e9
    assert large.network == beyond.network == 2 * 6768e9
    assert large.residuals == 4 * small.residuals
    assert "1024x1024" in large.derived
