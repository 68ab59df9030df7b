"""prompts.json of a list: what the directories say now, and what is not read."""

import json

import pytest

from sdsjax.training.prompts.list_file import (
    ListedAsset,
    may_be_replaced,
    read_list,
    write_list,
)


def test_a_list_is_read_as_it_stands_now_even_moved(tmp_path):
    root = tmp_path / "a"
    assets = [
        ListedAsset("a mug", "Single", root / "x", "finished"),
        ListedAsset("a ball", "", root / "y", "waiting"),
        ListedAsset("a cup", "", root / "z", "diverged", "a NaN at step 3"),
        ListedAsset("a hat", "", root / "w", "finished"),
    ]
    root.mkdir()
    write_list(root, assets)
    for name in ("x", "y"):
        (root / name).mkdir()
        (root / name / "finished.json").write_text("{}")
    moved = root.rename(tmp_path / "b")
    found = read_list(moved)
    assert [asset.status for asset in found] == [
        *("finished", "finished", "diverged", "missing")
    ]
    assert [asset.folder for asset in found] == [moved / name for name in "xyzw"]
    assert found[2].note == "a NaN at step 3"
    assert found[0].group == "Single"
    assert may_be_replaced(moved)


def test_without_a_list_there_is_none_and_another_file_is_refused(tmp_path):
    assert read_list(tmp_path) is None
    assert may_be_replaced(tmp_path)
    ours = {"made_by": "sdsjax --prompts"}
    row = {"prompt": "a", "folder": "x"}
    for content in (
        [],
        {"assets": [row]},
        ours,
        {**ours, "assets": []},
        {**ours, "assets": [row, 3]},
        {**ours, "assets": [{**row, "prompt": 4}]},
        {**ours, "assets": [{**row, "folder": "../x"}]},
        {**ours, "assets": [{**row, "folder": "/tmp/x"}]},
    ):
        (tmp_path / "prompts.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"prompts\.json") as caught:
            read_list(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "prompts.json").write_text('["a mug"]')
    assert not may_be_replaced(tmp_path)
