"""CIFAR-10 and CIFAR-100 from files, and what is said when there are none."""

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import check_stream, colours  # noqa: E402

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)


def arrays(count=20, tests=5):
    """Picture i is all i; test pictures count on."""
    values = np.arange(count + tests, dtype="uint8")[:, None, None, None]
    x = np.broadcast_to(values, (count + tests, 32, 32, 3))
    y = np.arange(count + tests)[:, None] % 10
    return {
        "x_train": x[:count],
        "y_train": y[:count],
        "x_test": x[count:],
        "y_test": y[count:],
    }


@pytest.fixture(name="file")
def _file(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    return tmp_path / "cifar10.npz"


def test_from_a_file(file):
    for place in (file, str(file), file.parent):
        data = kd.datasets.cifar10(place, validation=4)
        assert data.name == "CIFAR-10 (cifar10.npz)"
        assert data.image_shape == (32, 32, 3) and data.ignore_class is None
        assert data.classes[3] == "cat" and len(data.classes) == 10
        held, rest = colours(data.validation), colours(data.train)
        assert len(held) == 4 and sorted(held + rest) == list(range(20))
        assert colours(data.test) == list(range(20, 25))
        for split in (data.train, data.validation, data.test):
            images, labels = split.arrays()
            np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 10)
    assert len(kd.datasets.cifar10(file).validation) == 2
    other = kd.datasets.cifar10(file, validation=4, seed=1)
    assert colours(other.validation) != held
    check_stream(data.train)


def test_a_file_may_say_what_it_is(tmp_path):
    np.savez(tmp_path / "cifar100.npz", **arrays(), name="CIFAR-100 (a part)")
    data = kd.datasets.cifar100(tmp_path)
    assert data.name == "CIFAR-100 (a part)" and data.classes[99] == "99"


@pytest.mark.parametrize("load", [kd.datasets.cifar10, kd.datasets.cifar100])
def test_from_keras(load, monkeypatch):
    found = arrays()
    module = getattr(keras.datasets, load.__name__)
    pairs = (
        (found["x_train"], found["y_train"]),
        (found["x_test"], found["y_test"]),
    )
    monkeypatch.setattr(module, "load_data", lambda: pairs)
    data = load()
    assert data.name in ("CIFAR-10", "CIFAR-100") and len(data.train) == 18

    def fail():
        raise OSError("URL fetch failure")

    monkeypatch.setattr(module, "load_data", fail)
    with pytest.raises(FileNotFoundError, match=f"{data.name} could not be down.*URL"):
        load()


def test_files_of_another_kind(tmp_path, file):
    for place in (tmp_path / "none.npz", tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="an .npz of CIFAR-10.*none"):
            kd.datasets.cifar10(place)
    with pytest.raises(FileNotFoundError, match="holds cifar100.npz"):
        kd.datasets.cifar100(tmp_path)

    whole = file.read_bytes()
    lacking = {k: v for k, v in arrays().items() if k != "y_test"}
    np.savez_compressed(tmp_path / "packed.npz", **arrays())
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[60:90] = b"\xff" * 30
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "lacking.npz", **lacking)
    contents = {
        "empty": b"",
        "text": b"no arrays",
        "cut": whole[: len(whole) // 2],
        "damaged": bytes(packed),
        "array": (tmp_path / "array.npy").read_bytes(),
        "lacking": (tmp_path / "lacking.npz").read_bytes(),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.data"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"must name an .npz of.*{name}.data"):
            kd.datasets.cifar10(path)


def test_arrays_that_do_not_fit(tmp_path):
    wrong = {
        "Images must be of shape": {"x_test": np.zeros((5, 28, 28, 1))},
        "Labels must be from 0 to 9. Received: 0 to 10": {"y_test": np.arange(11)[6:]},
        "equally many": {"y_train": np.zeros(19, int)},
        "cifar10.npz must be pixels from 0 to 255. Received: float64": {
            "x_test": np.full((5, 32, 32, 3), 0.9)
        },
        "class indices, whole numbers": {"y_test": np.eye(5, 10)},
    }
    wrong["Labels must be from 0 to 9. Received: 0 to 10"]["y_test"][0] = 0
    for message, changed in wrong.items():
        np.savez(tmp_path / "cifar10.npz", **(arrays() | changed))
        with pytest.raises(ValueError, match=message):
            kd.datasets.cifar10(tmp_path)
    np.savez(tmp_path / "cifar10.npz", **arrays())
    with pytest.raises(ValueError, match="`validation` must be from 1 to 19"):
        kd.datasets.cifar10(tmp_path, validation=20)
