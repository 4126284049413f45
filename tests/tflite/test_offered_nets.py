"""The nets and photos that the web page offers: they run, and leave where they should."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.export.nets import only_builtins

NETS = Path(__file__).parents[2] / "tflite" / "web" / "nets"
INDEX = json.loads((NETS / "index.json").read_text())


@pytest.fixture(scope="module")
def files():
    return [kd.LiteRTModel(NETS / net["file"]) for net in INDEX["nets"]]


def photo(name):
    image = keras.utils.load_img(NETS / "photos" / name, target_size=(160, 160))
    return np.asarray(image, "float32")


def test_what_is_listed_is_there_and_small(files):
    held = sum(path.stat().st_size for path in NETS.rglob("*") if path.is_file())
    assert held < 12e6
    listed = {"README.md", "NOTICE", "index.json", *(n["file"] for n in INDEX["nets"])}
    assert {path.name for path in NETS.iterdir()} == {*listed, "photos"}
    assert {path.name for path in (NETS / "photos").iterdir()} == {*INDEX["photos"]}
    for file in files:
        assert only_builtins(Path(file.path).read_bytes())


def test_photos_leave_at_each_exit(files):
    """Those of each exit come together; what an exit spares is not run."""
    dynamic, plain = files
    names = dynamic.metadata["labels"]
    assert len(names) == 81 and names == plain.metadata["labels"]
    exits, right = [], []
    for name in INDEX["photos"]:
        found = [file.run("classify", image=photo(name)) for file in files]
        exits.append(int(found[0]["exit"][0]))
        truth = name.partition("_")[2].removesuffix(".jpg")
        right.append([names[int(each["label"][0])] == truth for each in found])
        spared = found[0]["executed_macs"][0] < 0.2 * plain.metadata["macs"] / 1000
        assert spared == (exits[-1] == 0)
    assert exits[:3] == [0] * 3 and exits[-3:] == [2] * 3  # few leave between them
    assert np.all(right[:3])  # the hard ones were kept as they came
