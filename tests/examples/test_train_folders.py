"""train_imagenet.py and train_cityscapes.py: real runs on tiny folders of pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_dyngate as kd
from tests.backend_utils import BACKEND

ROOT = Path(kd.__file__).parent.parent

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        BACKEND != "tensorflow", reason="the scripts start a process of their own"
    ),
]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
    )


def write_png(path, pixels):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.mark.parametrize("script", ["train_imagenet.py", "train_cityscapes.py"])
def test_missing_data_are_one_clear_line(script, tmp_path):
    done = run(script, "--data_dir", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("FileNotFoundError") and "nowhere" in last
    assert "Traceback" not in done.stderr


def test_a_folder_with_a_broken_picture_becomes_a_file(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 3)):
        for name, light in (("dark", 60), ("light", 200)):
            for index in range(count):
                picture = rng.normal(light, 20, (40, 36, 3)).clip(0, 255)
                place = tmp_path / "data" / part / name / f"{index}.png"
                write_png(place, picture.astype("uint8"))
    (tmp_path / "data" / "train" / "dark" / "3.png").write_bytes(b"no picture")
    done = run(
        "train_imagenet.py",
        *("--data_dir", tmp_path / "data", "--out", tmp_path / "out"),
        *("--model", "resnet18", "--stem", "cifar", "--image_size", 32),
        *("--width", 0.125, "--gate_group_size", 8, "--batch_size", 4),
        *("--epochs", 1, "--skip_unreadable"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 unreadable" in done.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["test_images"] == 6
    for file in result["files"].values():
        assert file["samples"] == 6 and file["agreement"] == 1.0
    float32 = result["files"]["float32"]
    # The file says what it ran, in thousands: the same as the counter in Keras.
    assert float32["mean_executed_macs"] == pytest.approx(
        result["executed_macs"], abs=1000
    )
    assert float32["accuracy"] == result["accuracy"]
    assert result["macs"] <= result["executed_macs"] <= 1.05 * result["plain_macs"]


def write_scenes(folder, height, width):
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for index in range(4):
            labels = rng.integers(0, 12, (height, width, 1)).astype("uint8")
            write_png(folder / f"{part}annot" / f"{index}.png", labels)
            write_png(
                folder / part / f"{index}.png", np.repeat(20 * labels, 3, axis=-1)
            )


def test_scenes_become_a_file_that_labels_pixels(tmp_path):
    write_scenes(tmp_path / "data", 48, 64)
    done = run(
        "train_cityscapes.py",
        *("--dataset", "camvid", "--data_dir", tmp_path / "data"),
        *("--out", tmp_path / "out", "--image_size", "48,64"),
        *("--method", "plain", "--width", 0.0625),
        *("--batch_size", 2, "--epochs", 1),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["files"]) == {"float32", "dynamic"}
    file = result["files"]["float32"]
    assert file["samples"] == 4 and file["agreement"] == 1.0
    assert file["mean_iou"] == pytest.approx(result["mean_iou"], abs=1e-6)
    assert file["mean_executed_macs"] == pytest.approx(result["macs"], abs=1000)


def test_a_net_for_phones_is_gated_when_it_is_trained(tmp_path):
    write_scenes(tmp_path / "data", 96, 128)
    shared = (
        *("--dataset", "camvid", "--data_dir", tmp_path / "data"),
        *("--image_size", "96,128", "--batch_size", 2, "--epochs", 1),
        *("--model", "pspnet_lite0", "--learning_rate", 0.001),
    )
    plain, gated = tmp_path / "plain", tmp_path / "gated"
    done = run(
        "train_cityscapes.py",
        *shared,
        "--method",
        "plain",
        "--out",
        plain,
        "--noexport",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = run(
        "train_cityscapes.py",
        *shared,
        *("--weights", plain / "model.keras", "--prime", "--target_macs", 0.7),
        *("--gate", "both", "--batch_shaping", 0, "--out", gated),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, result = (
        json.loads((folder / "result.json").read_text()) for folder in (plain, gated)
    )
    assert result["plain_macs"] == before["macs"]
    assert 0 < result["open_rate"] < 1
    file = result["files"]["float32"]
    assert file["samples"] == 4 and file["agreement"] > 0.99
    assert file["mean_executed_macs"] < result["plain_macs"]
