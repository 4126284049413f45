"""Cityscapes: ids against the official table, and whole cities held out."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import (  # noqa: E402
    check_stream,
    colours,
    plain,
    take,
    write_png,
)

cityscapes = kd.datasets.cityscapes
pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)
# The classes of ids 0 to 33, as the official scripts have them, row by row of ten.
TRAIN_IDS = (
    *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255),
    *(255, 2, 3, 4, 255, 255, 255, 5, 255, 6),
    *(7, 8, 9, 10, 11, 12, 13, 14, 15, 255),
    *(255, 16, 17, 18),
)
KNOWN_IDS = [index for index, known in enumerate(TRAIN_IDS) if known < 255]
CITIES = {"ulm": 3, "aachen": 4, "bochum": 3, "jena": 2}
SIZE = (8, 16)


def write_scene(root, part, city, value, labels=None):
    name = f"{city}_000000_{value:06}"
    write_png(
        root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png",
        plain(value, *SIZE),
    )
    labels = np.full(SIZE, KNOWN_IDS[value]) if labels is None else labels
    path = root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png"
    write_png(path, labels[..., None].astype("uint8"))
    return path


@pytest.fixture(name="root")
def _root(tmp_path):
    """Scene i is of colour i and of class i; to judge by, 12 and 13."""
    value = 0
    for city, count in CITIES.items():
        for _ in range(count):
            write_scene(tmp_path, "train", city, value)
            value += 1
    for _ in range(2):
        write_scene(tmp_path, "val", "lindau", value)
        value += 1
    return tmp_path


def test_all_ids(root):
    ids = np.zeros(SIZE, int)
    ids.flat[:35] = [*range(34), 255]
    write_scene(root, "val", "lindau", 12, ids)
    data = cityscapes(root, image_size=SIZE, validation=3)
    images, maps = data.test.arrays()
    assert images.shape == (2, *SIZE, 3) and maps.dtype == "int32"
    expected = np.full(SIZE, 255)
    expected.flat[:34] = TRAIN_IDS
    np.testing.assert_array_equal(maps[0], expected)
    assert data.ignore_class == 255 and len(data.classes) == 19
    assert data.name == "Cityscapes" and data.image_shape == (*SIZE, 3)
    names = [data.classes[TRAIN_IDS[i]] for i in (7, 8, 17, 24, 25, 31, 33)]
    assert names == "road,sidewalk,pole,person,rider,train,bicycle".split(",")
    from keras_dyngate.datasets.cityscapes import train_ids

    assert train_ids()[-1] == 255 and set(train_ids()) == {*range(19), 255}


def test_whole_cities_are_held_out(root):
    order = sorted(CITIES)
    chosen = set()
    for seed in range(3):
        data = cityscapes(root, image_size=SIZE, validation=5, seed=seed)
        parts = [split.arrays() for split in (data.validation, data.train)]
        held, rest = (x[:, 0, 0, 0].astype(int).tolist() for x, _ in parts)
        assert sorted(held + rest) == list(range(12))
        first = np.cumsum([0, *CITIES.values()])
        cities = dict(zip(CITIES, zip(first, first[1:], strict=False), strict=True))
        whole = [c for c in order if set(range(*cities[c])) & set(held)]
        assert len(held) == sum(CITIES[city] for city in whole) <= 5
        # No other city would have fitted.
        left = 5 - len(held)
        assert all(CITIES[city] > left for city in set(CITIES) - set(whole))
        chosen.add(tuple(whole))
        for images, maps in parts:
            np.testing.assert_array_equal(maps[:, 0, 0], images[:, 0, 0, 0])
    assert len(chosen) > 1
    assert data.train.augment and not (data.validation.augment or data.test.augment)


def test_single_scenes_where_no_city_is_small_enough(root):
    data = cityscapes(root, image_size=SIZE)
    assert len(data.validation) == 1 and len(data.train) == 11
    assert sorted(colours(data.validation) + colours(data.train)) == list(range(12))


def test_training_crops(root):
    data = cityscapes(root, (6, 10), SIZE, validation=2)
    images, maps = take(data.train.stream(4), 2)
    assert images.shape == (2, 4, 6, 10, 3) and maps.shape == (2, 4, 6, 10)
    check_stream(data.train)
    images, maps = take(cityscapes(root, None, SIZE, 2).train.stream(4), 1)
    assert images.shape[2:] == (*SIZE, 3)


def test_unreadable_scenes(root):
    broken = write_scene(root, "train", "ulm", 1)
    broken.write_bytes(b"")
    data = cityscapes(root, image_size=SIZE, validation=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"image: '{broken}'"):
        list(data.train.batches(4))
    data = cityscapes(root, image_size=SIZE, validation=2, skip_unreadable=True)
    assert 1 not in colours(data.train) and len(data.train.arrays()[0]) == 9
    assert data.train.unreadable == [str(broken)]


def test_label_maps_of_another_kind(root):
    """Palettes hold ids as well; colours, or a map all void, are no label map."""
    ids = np.resize(range(34), SIZE).astype("uint8")
    path = write_scene(root, "val", "lindau", 12)
    picture = Image.fromarray(ids, "L")
    picture.putpalette([(91 * i) % 256 for i in range(768)])
    picture.save(path)
    data = cityscapes(root, image_size=SIZE, validation=3)
    found = data.test.arrays()[1][0]
    np.testing.assert_array_equal(found, np.array(TRAIN_IDS)[ids])
    for other in (picture.convert("RGB"), Image.new("L", SIZE[::-1], 4)):
        other.save(path)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"image: '{path}'"):
            data.test.arrays()


def test_missing_files(root, tmp_path_factory):
    hint = (
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.city"
    )
    for place in (root / "none", tmp_path_factory.mktemp("empty"), None):
        with pytest.raises(FileNotFoundError, match=hint) as error:
            cityscapes(place)
        assert "Received: data_dir=" in str(error.value)
        assert "\n" not in str(error.value)
    lost = write_scene(root, "val", "lindau", 12)
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"'{lost}' is missing"):
        cityscapes(root)


def test_errors(root):
    with pytest.raises(ValueError, match="`source` must be one of 'folder', 'tfds'"):
        cityscapes(root, source="web")
    with pytest.raises(ValueError, match="`image_size` must be .height, width.*=8"):
        cityscapes(root, image_size=8)
    with pytest.raises(ValueError, match="`crop_size` must be a positive integer"):
        cityscapes(root, crop_size=(0, 8))
    for count in (0, 12):
        with pytest.raises(ValueError, match="`validation` must be from 1 to 11"):
            cityscapes(root, validation=count)
