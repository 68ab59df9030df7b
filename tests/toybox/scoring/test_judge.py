"""The judge: its labels and its arithmetic; the shipped one has its tests elsewhere."""

import numpy as np
import pytest

from sdsjax.toybox.scoring import judge as judges
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import BASES, DIRECTED_KINDS


def test_prompts_and_labels_agree():
    texts, labels = judges.prompts_to_judge(300, 0.3, seed=0)
    again, _ = judges.prompts_to_judge(300, 0.3, seed=0)
    assert texts == again
    for i, text in enumerate(texts):
        spec, view = parse_caption(text)
        assert judges.KIND_NAMES[labels.kind[i]] == spec.kind
        assert judges.COLOR_NAMES[labels.color[i]] == spec.color
        assert labels.view[i] == view
        if spec.base_kind is None:
            assert labels.base[i] == judges.NONE
            assert labels.base_color[i] == judges.NO_COLOR
        else:
            assert BASES[labels.base[i]] == spec.base_kind
            assert judges.COLOR_NAMES[labels.base_color[i]] == spec.base_color
    assert 60 <= (labels.base != judges.NONE).sum() <= 120


def test_agreement_counts_by_hand():
    directed = judges.KIND_NAMES.index(DIRECTED_KINDS[0])
    round_kind = judges.KIND_NAMES.index("ball")
    true = judges.Labels(
        kind=np.array([directed, directed, round_kind, round_kind]),
        color=np.array([0, 1, 2, 3]),
        base=np.array([judges.NONE, judges.NONE, judges.NONE, 0]),
        base_color=np.array([judges.NO_COLOR] * 3 + [1]),
        view=np.array([0, 1, 2, 3]),
    )
    said = true._replace(
        kind=np.array([directed, round_kind, round_kind, round_kind]),
        view=np.array([0, 0, 0, 0]),
        base_color=np.array([judges.NO_COLOR] * 3 + [2]),
    )
    shares = judges.agreement(said, true)
    assert shares["kind"] == pytest.approx(2 / 3)
    assert shares["color"] == 1.0
    assert shares["view"] == 0.5  # of the two single kinds with a front
    assert shares["pair"] == 0.0
    assert (shares["singles"], shares["directed"], shares["pairs"]) == (3, 2, 1)


def test_foreign_weights_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"['odd']": np.zeros(2)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="do not fit"):
        judges.load_judge(tmp_path)
