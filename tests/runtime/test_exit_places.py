"""Places of exits as a file notes them, and thresholds that send samples there."""

import numpy as np
import pytest

from keras_dyngate.runtime.exit_places import ExitPlace, exit_places, limits_to

NOTED = [
    {"name": "first", "after": "input", "macs": 100, "macs_share": 0.1},
    {"name": "gate_1", "after": "b4_add", "macs": 449, "macs_share": 0.449},
    {"name": "head", "after": None, "macs": 1000, "macs_share": 1.0},
]


def test_places_are_read_and_said():
    places = exit_places({"exits": NOTED, "labels": None})
    assert places[1] == ExitPlace("gate_1", "b4_add", 449, 0.449)
    said = ["after the input", "after b4_add", "at the end"]
    assert [str(place) for place in places] == said
    shares = [".10 of the MACs", ".45 of the MACs", "1.00 of the MACs"]
    assert [place.share for place in places] == shares


def test_older_and_other_files_name_none():
    assert exit_places({}) == exit_places({"exits": None}) == ()


@pytest.mark.parametrize(
    "found",
    [
        3,
        "head",
        ["head"],
        {"head": 1},
        [{"name": "head"}],
        [{**NOTED[0], "after": 3}],
        [{**NOTED[0], "name": None}],
        [{**NOTED[0], "macs": "many"}],
        [{**NOTED[0], "macs_share": None}],
    ],
)
def test_another_form_is_refused(found):
    with pytest.raises(ValueError, match=r"'exits' in a file's metadata.* Received: "):
        exit_places({"exits": found})


def test_limits_send_every_score_to_one_exit():
    scores = np.random.default_rng(0).normal(0, 1e6, (50, 3)).astype("float32")
    for wanted in range(4):
        limits = limits_to(wanted, 3)
        assert limits.shape == (3,) and limits.dtype == np.float32
        for row in scores:  # as a file decides
            left = next((k for k in range(3) if row[k] >= limits[k]), 3)
            assert left == wanted
