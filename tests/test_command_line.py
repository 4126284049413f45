"""`keras-dyngate`: a net and a folder of photos to a file, and what goes wrong."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")
pytest.importorskip("PIL")

import keras_dyngate as kd
from keras_dyngate.command_line import main

layers = keras.layers


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A net that tells bright photos from dark ones, and those."""
    from PIL import Image as image_of

    folder = tmp_path_factory.mktemp("command_line")
    rng = np.random.default_rng(0)
    for name, level in (("bright", 190), ("dark", 60)):
        for part, count in (("train", 20), ("val", 8), ("test", 8)):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(level, 20, (24, 24, 3)), 0, 255)
                picture = image_of.fromarray(pixels.astype("uint8"))
                picture.save(place / f"{number}.png")
    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3))
    x = layers.Rescaling(1 / 255)(image)
    for name in ("early", "late"):
        x = layers.Conv2D(16, 3, strides=2, activation="relu", name=name)(x)
    x = layers.GlobalAveragePooling2D()(x)
    net = keras.Model(image, layers.Dense(2, "softmax")(x))
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    data = kd.datasets.image_folder(folder / "photos", 24, augmentation="shift")
    net.fit(*data.train.uint8_arrays(), epochs=12, verbose=0)
    net.save(folder / "net.keras")
    return folder


def other_net(path):
    """A net that does not suit, by the name of its file."""
    if path.stem in ("grey", "four"):
        image = keras.Input((24, 24, 1 if path.stem == "grey" else 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
        keras.Model(image, layers.Dense(4)(x)).save(path)
    elif path.stem == "README":
        path.write_text("no net")
    return path


def command(given, out, *more):
    return [
        "speed-up",
        str(given / "net.keras"),
        *("--data", str(given / "photos"), "--out", str(out)),
        *("--no-first", "--epochs", "1", "--exit-epochs", "2", "--joint-epochs", "1"),
        *more,
    ]


@pytest.mark.heavy
@pytest.mark.parametrize(("budget", "status"), [("macs:0.9x", 0), ("macs:0.01x", 1)])
def test_speed_up(given, tmp_path, capsys, budget, status):
    out = tmp_path / "out"
    assert main(command(given, out, "--budget", budget)) == status
    noted = json.loads((out / "result.json").read_text())
    said = capsys.readouterr().out
    assert noted["sentence"] in said and "16 test photos, judged once" in said
    assert noted["kept"] is (status == 0) and noted["budget"] == budget
    model = kd.LiteRTModel(out / "net.tflite")
    assert model.metadata["labels"] == ["bright", "dark"]
    x, y = kd.datasets.image_folder(given / "photos", 24).test.uint8_arrays()
    assert noted["test"] == {
        "photos": 16,
        "accuracy": pytest.approx(model.evaluate(x, y)["accuracy"]),
    }
    assert {row["name"] for row in noted["tried"]} >= {"the plain net", "exits"}
    keras.models.load_model(out / "net.keras", compile=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--budget": "fast"}, "`--budget` must be like"),
        ({"--data": "nowhere"}, "--data: there is no folder 'nowhere'"),
        ({"net": "none.keras"}, "net: there is no file"),
        ({"net": "README.md"}, "README.md' is no Keras model"),
        ({"net": "grey.keras"}, "square colour photos of one size"),
        (
            {"net": "four.keras"},
            "has 2 folders, one per class; the net tells 4 classes",
        ),
        ({"--max-accuracy-drop": "3"}, "`max_accuracy_drop` must be"),
    ],
)
def test_one_line(given, tmp_path, capsys, change, message):
    words = command(given, tmp_path / "out")
    for name, value in change.items():
        if name == "net":
            words[1] = str(other_net(tmp_path / value))
        elif name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    if "--max-accuracy-drop" in change:
        words += ["--budget", "macs:0.9x"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-dyngate: ") and message in error
    assert error.count("\n") == 1 and not (tmp_path / "out" / "net.tflite").exists()


def test_another_run_in_the_same_folder_is_refused(given, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(given, out, "--budget", "macs:0.9x", "--gates", "none")) == 0
    before = (out / "result.json").read_bytes()
    capsys.readouterr()
    assert main(command(given, out, "--budget", "macs:0.8x", "--gates", "none")) == 2
    error = capsys.readouterr().err
    assert "--out:" in error and "['budget']" in error and error.count("\n") == 1
    assert (out / "result.json").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["speed-up"], ["slow-down"]])
def test_wrong_command_lines(words, capsys):
    with pytest.raises(SystemExit) as found:
        main(words)
    assert found.value.code == 2 and "usage: keras-dyngate" in capsys.readouterr().err


def test_as_a_module():
    words = [sys.executable, "-m", "keras_dyngate", "speed-up", "--help"]
    shown = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert shown.returncode == 0 and max(map(len, shown.stdout.splitlines())) <= 80
