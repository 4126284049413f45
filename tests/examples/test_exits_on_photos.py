"""The examples about exits as a user runs them, on a few tiny photos."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIDE = 32
CLASSES = ("bottom", "left", "right", "top")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the scripts export"
    ),
]


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def photo(rng, label):
    """Noise with one bright half."""
    image = rng.uniform(0, 120, (SIDE, SIDE, 3))
    half = SIDE // 2
    parts = {
        "top": np.s_[:half],
        "bottom": np.s_[half:],
        "left": np.s_[:, :half],
        "right": np.s_[:, half:],
    }
    image[parts[label]] += rng.uniform(20, 100)
    return image.astype("uint8")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of photos and a net trained on them."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    kept = []
    for part, count in (("train", 24), ("val", 12), ("test", 12)):
        for index, label in enumerate(CLASSES):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                image = photo(rng, label)
                keras.utils.save_img(folder / part / label / f"{number}.png", image)
                if part == "train":
                    kept.append((image, index))
    x, y = (np.array(side) for side in zip(*kept, strict=True))
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = h = keras.Input((SIDE, SIDE, 3))
    h = layers.Rescaling(1 / 127.5, -1.0)(h)
    for index, filters in enumerate((8, 16), 1):
        h = layers.Conv2D(filters, 3, 2, padding="same", name=f"conv{index}")(h)
        h = layers.ReLU(name=f"relu{index}")(h)
    h = layers.Add(name="add")(
        [h, layers.Conv2D(16, 3, padding="same", name="more")(h)]
    )
    net = keras.Model(image, layers.Dense(4)(layers.Flatten()(h)), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(3e-3), loss)
    net.fit(x.astype("float32"), y, batch_size=16, epochs=10, verbose=0)
    net.save(folder / "net.keras")
    return folder


def test_speed_up_your_net(given, tmp_path):
    printed = run(
        "speed_up_your_net.py",
        f"--net={given / 'net.keras'}",
        f"--photos={given}",
        "--after=relu1",
        "--nofirst",
        "--epochs=3",
        "--max_accuracy_drop=0.1",
        f"--out={tmp_path}",
    )
    litert = kd.LiteRTModel(tmp_path / "net.tflite")
    assert tuple(litert.labels) == CLASSES
    for words in ("relu1", "the plain net", "On the 48 test pictures", "MMACs"):
        assert words in printed
    keras.models.load_model(tmp_path / "net.keras", compile=False)
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_what_a_user_can_mend_is_one_line(given, tmp_path):
    broken = tmp_path / "photos"
    shutil.copytree(given, broken)
    (broken / "train" / "left" / "0.png").write_bytes(b"no picture")
    for photos, words in ((tmp_path / "none", "must be a folder"), (broken, "0.png")):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "speed_up_your_net.py")]
            + [
                f"--net={given / 'net.keras'}",
                f"--photos={photos}",
                f"--out={tmp_path}",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        (line,) = (x for x in done.stderr.splitlines() if "speed_up_your_net.py:" in x)
        assert words in line and "function_node" not in line


class CountsThresholds:
    """Stands for the ARM machine: a call costs 10, and 5 for each exit passed by."""

    def __init__(self, folder):
        self.folder = folder

    def instructions(self, cpu, model, signature, inputs):
        assert cpu in ("cortex-a76", "cortex-a53") and Path(model).exists()
        assert Path(inputs["image"]).stat().st_size == 4 * SIDE * SIDE * 3
        if "thresholds" not in inputs:
            return 20
        return 10 + 5 * int((np.fromfile(inputs["thresholds"], "float32") > 0).sum())


def count_instructions(rows, photos, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import exit_instructions

    monkeypatch.setattr(exit_instructions, "ArmMachine", CountsThresholds)
    arguments = f"--rows={rows}", f"--photos={photos}", "--quantization=float32"
    exit_instructions.FLAGS(["exit_instructions.py", *arguments, "--counted=2"])
    exit_instructions.main(["exit_instructions.py"])


def test_arms_and_their_judge(given, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    settings = (
        f"--net={given / 'net.keras'}",
        f"--photos={given}",
        "--first_weights=",
        "--after=relu1",
        "--first_size=32",
        "--epochs=2",
        "--joint_epochs=1",
        "--beside=first_48,plain_32",
        f"--out={runs}",
    )
    run(
        "exits_on_photos.py",
        "--arm=joint,separable_strong,separable,beside_further",
        *settings,
    )
    shared = ("--net", "--photos", "--out", "--after")
    again = run("exits_on_photos.py", "--arm=joint", *settings)
    assert "joint: done already" in again
    run(
        "gates_on_photos.py",
        "--arm=layers_60,halves_80_bas,layers_60_salience_further_strong,removed_60,layers_60_exits",
        *(given for given in settings if given.split("=")[0] in shared),
        "--epochs=2",
    )
    about = json.loads((runs / "0" / "layers_60" / "about.json").read_text())
    assert set(about["decisions"]["layers"]) == {"gated_add/layer"}
    behind = json.loads((runs / "0" / "layers_60_exits" / "about.json").read_text())
    assert behind["places"] == ["relu1", None]
    run(
        "judge_exits.py",
        f"--runs={runs}",
        f"--photos={given}",
        "--quantizations=float32",
        "--halves=3",
        "--timed=4",
        "--margin=100",
        f"--out={tmp_path / 'rows'}",
    )
    found = json.loads((tmp_path / "rows" / "rows.json").read_text())
    rows = {row["net"]: row for row in found["rows"]}
    assert rows["plain"]["macs"] == 1.0 and rows["plain"]["over plain"] == 0.0
    assert {"first 32 alone", "cut after relu1", "plain, taught jointly"} <= set(rows)
    for row in rows.values():
        assert 0 <= row["accuracy"] <= 1 and sum(row["shares"]) == pytest.approx(1)
    places = {
        "plain": 1,
        "cut after relu1": 1,
        "first 32 alone": 1,
        "separable, 1 exits": 2,
        "first 32, taught net": 2,
        "first 32, joint: relu1": 3,
        "first 48 further alone": 1,
        "plain 32 further, taught": 1,
        "first 48 further, taught net": 2,
        "first 48 further, plain 32 further, taught": 2,
        "layers 60": 1,
        "layers 60 exits": 2,
        "layers 60 salience further strong": 1,
        "halves 80 bas": 1,
        "removed 60": 1,
        "first 48 further, layers 60": 2,
        "first 48 further, layers 60, taught net": 3,
    }
    assert rows["removed 60"]["macs"] < 0.6
    assert set(places) <= set(rows)
    for name, count in places.items():
        assert len(rows[name]["shares"]) == count
    files = found["files"]
    assert {"plain", "cut after relu1", "separable, 1 exits"} <= set(files)
    assert {"first 48 further alone", "plain 32 further, taught"} <= set(files)
    for name, file in files.items():
        times = file["float32"]["paths"]
        assert len(times) == places.get(name, len(times)) and min(times) > 0
        assert file["float32"]["agreement"] == {"labels": 1, "exits": 1}

    count_instructions(tmp_path / "rows" / "rows.json", given, monkeypatch)
    found = json.loads((tmp_path / "rows" / "rows.json").read_text())
    for net, file in found["files"].items():
        exits = len(file["float32"]["paths"])
        expected = [0.5 + 0.25 * number for number in range(exits)]
        assert file["a53"]["paths"] == (expected if exits > 1 else [1.0]), net

    printed = run(
        *(
            "publish_nets.py",
            f"--runs={runs}",
            f"--photos={given}",
            f"--out={tmp_path}",
        ),
        *(
            "--dynamic=first 32, joint: relu1",
            "--quantization=float32",
            "--title=sides",
        ),
        *("--accuracy_drop=0.2", "--shown=2", "--timed=4"),
    )
    assert (tmp_path / "README.md").read_text() in printed
    index = json.loads((tmp_path / "index.json").read_text())
    names = ["first 32, joint: relu1", "plain, taught jointly"]
    assert index["nets"][0]["name"] == "sides: decides per photo"
    for net, name in zip(index["nets"], names, strict=True):
        file = kd.LiteRTModel(tmp_path / net["file"])
        assert tuple(file.labels) == CLASSES and name in printed
    for name in index["photos"]:
        picture = kd.pictures.read_picture(tmp_path / "photos" / name)
        assert picture.shape == (SIDE, SIDE, 3) and name[3:-4] in CLASSES
    wrong = subprocess.run(
        [sys.executable, str(EXAMPLES / "publish_nets.py"), f"--runs={runs}"]
        + [f"--photos={given}", "--dynamic=none"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 1 and "first 32, taught net" in wrong.stderr

    printed = run(
        *("judge_promise.py", f"--runs={runs}", f"--out={tmp_path}", "--splits=3"),
        *("--samples=60", "--drop=0.3", "--kinds=heads,joint"),
    )
    rows = json.loads((tmp_path / "promise.json").read_text())["rows"]
    assert [row["net"] for row in rows] == ["separable, 1 exits", "joint: relu1"]
    for row in rows:
        for kind in ("promised", "plug-in"):
            assert 0 <= row[kind]["broken"] <= 1 and 0 <= row[kind]["saved"] < 1
    assert "broken" in printed

    alone = "first 32, joint: relu1"  # leaves at one exit; the others are no worse
    found["files"][alone] = {"float32": {"paths": [0.1, 0.5, 1.0]}}
    for file in found["files"].values():
        file["int8"] = {**file["float32"], "plain_ms": 2.0}
    for row in found["rows"]:
        if row["kind"] not in ("static", "gated"):
            used = 0.99 if row["net"] == alone else 0.5
            rest = len(row["shares"]) - 1
            row |= {"over plain": 0.0, "shares": [used, *[(1 - used) / rest] * rest]}
    rows = tmp_path / "rows" / "rows.json"
    rows.write_text(json.dumps(found))
    run("exits_page.py", f"--rows={rows}", f"--out={tmp_path}")
    page = (tmp_path / "exits.md").read_text()
    static, title, good = page.partition("## As good as the plain net")
    assert "| cut after relu1 |" in static and title
    assert "| separable, 1 exits |" in good and alone not in page
    assert "instructions, int8, A76 | A53 |" in page
    for name in ("exits.png", "exits_frontier.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_what_a_cheaper_one_beats_is_left_out(monkeypatch):
    """On val: the last of four photos is of test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from exit_nets import Arm, leading

    class Says(Arm):
        """Scores of two classes, right on the first so many photos."""

        def __init__(self, right, macs):
            said = np.where(np.arange(4) < right, 1, -1)
            self.scores = np.stack([said, -said], axis=-1)[:, None]
            self.truth, self.validation = np.zeros(4, int), 3
            self.trunk_macs, self.head_macs = np.array([macs]), [0]
            self.names = ["head"]

    arms = {"a": Says(1, 10), "b": Says(0, 20), "c": Says(3, 20), "d": Says(4, 30)}
    nets = {name: ((name, 0),) for name in arms}
    assert list(leading(arms, nets, 0.0)) == ["a", "c", "d"]
    assert list(leading(arms, nets, 50.0)) == ["a", "b", "c", "d"]


def test_what_no_other_beats(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from exit_rows import frontier

    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (1.0, 0.6), (2.5, 0.9)]
    assert frontier(points) == [3, 4]
