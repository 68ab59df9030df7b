"""A shipped card's numbers are those of its measured.json, and of its files."""

import json

import pytest

from sdsjax.models.loading.hub import BUILT_IN
from sdsjax.toybox.scoring import card, card_companions, card_flow, card_views

# What writes each card; and from where on nothing is added by hand: of three it was
# said what their training was before the recipe of today.
CARDS = {
    "toybox-sd": (card.card_text, "## Fresh"),
    "toybox-flow": (card_flow.card_text, "#"),
    "toybox-mv": (card_views.card_text, "## Fresh"),
    "toybox-dpt": (lambda d, r: card_companions.card_text("depth", d, r), "#"),
    "toybox-normals": (
        lambda d, r: card_companions.card_text("normals", d, r),
        "## Training",
    ),
    "toybox-clip": (lambda d, r: card_companions.card_text("clip", d, r), "#"),
}


@pytest.mark.parametrize("name", CARDS)
def test_the_shipped_card_is_made_of_what_was_measured(name):
    write, begin = CARDS[name]
    folder = BUILT_IN / name
    record = json.loads((folder / "measured.json").read_text())
    made = write(folder, record)
    shipped = (folder / "README.md").read_text()
    assert made[made.index(begin) :] == shipped[shipped.index(begin) :]
    assert made.splitlines()[0] == shipped.splitlines()[0]
