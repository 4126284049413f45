"""The converter as a user runs it."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.export.views import signature  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from keras_dyngate.flatfile.inspection import inspect_file  # noqa: E402
from keras_dyngate.flatfile.lint import lint  # noqa: E402
from keras_dyngate.runtime.golden import read_cases  # noqa: E402
from tests.datasets.picture_files import write_png  # noqa: E402
from tests.export.nets import cascade, small_net, spread_gates, tinted  # noqa: E402
from tests.models.gating.nets import lively, mobile  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "convert.py"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    own = [line for line in lines if line and not line.startswith(("I0", "W0", "WARN"))]
    return done.returncode, done.stdout, own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net per group, one per channel, and pictures in folders and in an .npz."""
    folder = tmp_path_factory.mktemp("convert")
    x = tinted(24)
    spread_gates(small_net(), x).save(folder / "net.keras")
    spread_gates(small_net(groups=32), x).save(folder / "channels.keras")
    np.savez(folder / "x.npz", images=x.astype("uint8"))
    for index, image in enumerate(x):
        tall = np.pad(image, [(3, 5), (0, 0), (0, 0)])  # to be cropped to its middle
        write_png(
            folder / "pictures" / str(index % 2) / f"{index}.png", tall.astype("uint8")
        )
    # As a text editor on Windows leaves it.
    lines = "\ufeff" + "\r\n".join("abcdefg") + "\r\n\r\n"
    (folder / "labels.txt").write_bytes(lines.encode())
    return folder


def test_a_first_net_in_int8(folder, tmp_path):
    cascade(tinted(24)).save(tmp_path / "exits.keras")
    given = ["--quantization=int8", f"--images={folder / 'x.npz'}"]
    kinds = {}
    for form in ("dynamic", "int8"):
        target = tmp_path / f"{form}.tflite"
        status, _, errors = run(
            tmp_path / "exits.keras", target, f"--first_net={form}", *given
        )
        assert status == 0, errors
        file = flatbuffer.read(target.read_bytes())
        graph = file.subgraphs[signature(file, "stage_1").subgraphIndex]
        held = [
            graph.tensors[op.inputs[0]].type
            for op in graph.operators
            if "CONV_2D" in flatbuffer.op_name(file, op)
        ]
        kinds[form] = set(held)
    assert kinds == {"dynamic": set(), "int8": {flatbuffer.schema.TensorType.INT8}}


def test_int8_from_pictures_and_verified(folder):
    target = folder / "int8.tflite"
    status, stdout, stderr = run(
        folder / "net.keras",
        target,
        "--quantization=int8",
        f"--images={folder / 'pictures'}",
        f"--verify={folder / 'x.npz'}",
        "--samples=12",
        "--input_type=uint8",
        f"--labels={folder / 'labels.txt'}",
    )
    assert status == 0, stderr
    assert "bytes, int8" in stdout and "against Keras on 12 images" in stdout
    litert = kd.LiteRTModel(target)
    assert litert.labels == list("abcdefg")
    assert litert.signatures["classify"].inputs["image"].dtype == np.uint8


def test_the_fastest_quantization_within_a_tolerance(folder):
    target = folder / "auto.tflite"
    status, stdout, stderr = run(
        folder / "net.keras",
        target,
        "--quantization=auto",
        f"--images={folder / 'pictures'}",
        f"--verify={folder / 'x.npz'}",
        "--samples=12",
        "--tolerance=0.2",
    )
    assert status == 0, stderr
    table = stdout[stdout.index("labels as in float32") :].splitlines()[1:]
    names = [line.split("  ")[-1] for line in table]
    assert {"float32", "float16", "dynamic", "int8"} <= set(names)
    kept = next(line for line in table if " yes  " in line)
    quantization = kd.LiteRTModel(target).metadata["quantization"] or "float32"
    assert kept.split("  ")[-1].startswith(quantization)


def test_a_net_that_was_gated_afterwards(folder):
    """Channel and layer gates on a net with squeeze-and-excite, from its .keras file."""
    x = tinted(24)
    net = lively(kd.add_layer_gates(kd.add_channel_gates(mobile())), x16(x))
    net.save(folder / "own.keras")
    np.savez(folder / "x16.npz", images=x16(x))
    target = folder / "own.tflite"
    status, stdout, stderr = run(
        folder / "own.keras",
        target,
        "--quantization=int8",
        f"--images={folder / 'x16.npz'}",
        f"--verify={folder / 'x16.npz'}",
        "--group_size=1",  # the gates' own groups, thin as they are
    )
    assert status == 0, stderr
    assert "5 conditional branches in 3 layers" in stdout, stdout
    found = [
        kd.LiteRTModel(target).run("classify", image=image)["executed_macs"][0]
        for image in x16(x)
    ]
    assert len(set(found)) > 2
    report = inspect_file(target)
    assert not lint(report), lint(report)


def x16(x):
    return np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")


def scaled_net(path, scale, offset):
    """Tells red pictures from green ones, trained on scale * pixels + offset."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))
    # Logits of the difference of both colours, whatever the scale; and of how bright it
    # is: the border between the classes is not where red is green.
    kernel = np.array([[1, -1], [-1, 1], [0, 0]]) / scale / 40
    model.set_weights([kernel, np.array([0.75, -0.75])])
    model.save(path)
    return model


def test_a_net_that_was_trained_on_another_scale(tmp_path):
    """The file takes pixels and answers as the net did on what it was trained on."""
    scale, offset = 1 / 127.5, -1.0
    model = scaled_net(tmp_path / "net.keras", scale, offset)
    x = np.zeros((32, 8, 8, 3), "uint8")
    x[..., :2] = np.random.default_rng(0).integers(60, 190, (32, 1, 1, 2))
    np.savez(tmp_path / "x.npz", images=x)
    expected = model.predict(scale * x.astype("float32") + offset, verbose=0)
    labels = expected.argmax(-1)
    wrong = model.predict(x.astype("float32"), verbose=0).argmax(-1) != labels
    assert 0.2 < labels.mean() < 0.8 and wrong.mean() > 0.1
    files = {}
    for name, flags in {
        "as it is": [],
        "scaled": [f"--input_scale={scale}", f"--input_offset={offset}"],
    }.items():
        target = tmp_path / f"{name}.tflite"
        status, stdout, stderr = run(
            *(tmp_path / "net.keras", target, "--quantization=int8", *flags),
            *(f"--images={tmp_path}/x.npz", f"--verify={tmp_path}/x.npz"),
        )
        assert status == 0, stderr
        warned = any("seems to take images of about 0 to 1" in line for line in stderr)
        assert warned == (name == "as it is")
        file = kd.LiteRTModel(target)
        found = [int(file.run("classify", image=i)["label"][0]) for i in x]
        files[name] = np.mean(np.array(found) == labels)
    assert files["scaled"] > 0.95 and files["as it is"] < 0.9


def test_golden_cases_of_the_signatures_that_are_kept(folder):
    target, golden = folder / "part.tflite", folder / "golden"
    status, stdout, stderr = run(
        folder / "net.keras",
        target,
        "--input_type=uint8",
        "--signatures=classify",
        f"--verify={folder / 'x.npz'}",
        f"--golden={golden}",
        "--cases=3",
    )
    assert status == 0, stderr
    assert "signatures: classify\n" in stdout and "labels equal 100.0%" in stdout
    cases = read_cases(golden)
    assert [case.signature for case in cases] == ["classify"] * 3
    assert (golden / "model.tflite").read_bytes() == target.read_bytes()
    for case, image in zip(cases, tinted(24), strict=False):
        pixels = np.fromfile(golden / case.inputs["image"], "uint8")
        np.testing.assert_array_equal(pixels, image.astype("uint8").ravel())


def test_packing(folder):
    target = folder / "packed.tflite"
    status, stdout, stderr = run(
        *(folder / "channels.keras", target, "--pack=8"),
        *(f"--images={folder / 'x.npz'}", f"--verify={folder / 'x.npz'}"),
        "--min_agreement=1",
    )
    assert status == 0, stderr
    assert "decisions equal 100.00%" in stdout
    model = keras.saving.load_model(folder / "channels.keras", compile=False)
    x = np.load(folder / "x.npz")["images"].astype("float32")
    options = kd.GateOptions(group_size=8)
    report = kd.export_tflite(model, folder / "unpacked.tflite", options=options)
    assert set(report.group_sizes.values()) == {8}
    packed, before = kd.LiteRTModel(target), kd.LiteRTModel(report.path)

    def executed(litert):
        return sum(int(litert.run("classify", image=i)["executed_macs"][0]) for i in x)

    assert executed(packed) < executed(before)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("File not found", ["{folder}/none.keras", "{folder}/a.tflite"]),
        (
            "`representative_data`",
            ["{net}", "{folder}/a.tflite", "--quantization=int8"],
        ),
        (
            "a folder of pictures",
            ["{net}", "{folder}/a.tflite", "--verify={folder}/no"],
        ),
        ("--pack needs --images", ["{net}", "{folder}/a.tflite", "--pack=8"]),
        (
            "--input_scale must be numbers. Received: 1,a",
            ["{net}", "{folder}/a.tflite", "--input_scale=1,a"],
        ),
        ("`path` must be", ["{net}", "{folder}/none/a.tflite"]),
        (
            "`--golden` must be a new folder",
            ["{net}", "{folder}/a.tflite", "--verify={folder}/x.npz", "--golden=."],
        ),
    ],
)
def test_errors_are_one_line(folder, message, arguments):
    names = {"folder": folder, "net": folder / "net.keras"}
    status, stdout, stderr = run(*(a.format(**names) for a in arguments))
    assert status == 1 and not (folder / "a.tflite").exists()
    assert message in stderr[-1] and stderr[-1].split(":")[0].endswith("Error")


def test_too_little_agreement(folder):
    """Calibrated on nothing but black, an int8 file cannot be right."""
    np.savez(folder / "black.npz", images=np.zeros((4, 12, 12, 3), "uint8"))
    status, stdout, stderr = run(
        *(folder / "net.keras", folder / "black.tflite", "--quantization=int8"),
        *(f"--images={folder / 'black.npz'}", f"--verify={folder / 'x.npz'}"),
        "--min_agreement=0.99",
    )
    assert status == 3, stdout
    assert stderr[-1].startswith("The file agrees with Keras on ")
    assert "fewer than 99.0%" in stderr[-1]


def test_wrong_usage(folder):
    assert run(folder / "net.keras")[0] not in (0, 3)
    assert run("a.keras", "a.tflite", "--min_agreement=1")[0] not in (0, 3)
