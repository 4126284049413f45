"""ImageNet and Cityscapes by tensorflow-datasets, whose own mock stands for the data."""

import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import take  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
    ),
    pytest.mark.filterwarnings("default"),  # those of tensorflow-datasets
]
LOADERS = {
    "imagenet2012": kd.datasets.imagenet2012,
    "cityscapes": lambda data_dir=None: kd.datasets.cityscapes(data_dir, source="tfds"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_without_the_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[datasets\]"):
        LOADERS[name]()


@pytest.mark.parametrize("name", LOADERS)
def test_without_data(name, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(FileNotFoundError) as error:
        LOADERS[name](tmp_path)
    message = str(error.value)
    assert f"into {tmp_path}/downloads/manual and run `tfds.builder('{name}" in message
    assert "https://" in message and f"data_dir='{tmp_path}'" in message
    assert "\n" not in message


def test_imagenet2012():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=8):
        data = kd.datasets.imagenet2012(image_size=16, validation=2)
        parts = [s.arrays() for s in (data.train, data.validation, data.test)]
        images, labels = take(data.train.stream(4), 2)
        again, _ = take(data.train.stream(4, start=1), 1)
        plain = [tfds.data_source("imagenet2012", split="train")[i] for i in range(8)]
    assert len(data.classes) == 1000 and data.classes[0] == "n01440764"
    assert data.name == "ImageNet 2012" and data.image_shape == (16, 16, 3)
    assert [x.shape for x, _ in parts] == [(n, 16, 16, 3) for n in (6, 2, 8)]
    found = np.concatenate([y for _, y in parts[:2]])
    assert sorted(found) == sorted(int(record["label"]) for record in plain)
    assert images.shape == (2, 4, 16, 16, 3) and labels.shape == (2, 4)
    np.testing.assert_array_equal(again[0], images[1])


def test_cityscapes():
    tfds = pytest.importorskip("tensorflow_datasets")
    name = "cityscapes/semantic_segmentation"
    with tfds.testing.mock_data(num_examples=3, max_value=34):
        data = kd.datasets.cityscapes(
            crop_size=(32, 64), image_size=(1024, 2048), validation=1, source="tfds"
        )
        image, labels = data.test.arrays(1)
        crops, _ = take(data.train.stream(2), 1)
        record = tfds.data_source(name, split="validation")[0]
    assert [len(s) for s in (data.train, data.validation, data.test)] == [2, 1, 3]
    np.testing.assert_array_equal(image[0], record["image_left"])
    from keras_dyngate.datasets.cityscapes import train_ids

    expected = train_ids()[record["segmentation_label"][..., 0]]
    np.testing.assert_array_equal(labels[0], expected)
    assert crops.shape == (1, 2, 32, 64, 3)
