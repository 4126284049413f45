"""What decisions cost on other machines: measured by the C runner, in Java, in QEMU."""

import json
import os
import re
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.cost.fitting import fit_costs  # noqa: E402
from keras_dyngate.cost.measured import Measured  # noqa: E402
from keras_dyngate.runtime.trials import draw_trials, sha256_of  # noqa: E402
from tests.export.nets import small_net, spread_gates, tinted, with_exits  # noqa: E402
from tests.tflite import test_native  # noqa: E402
from tests.tflite.golden_files import net  # noqa: E402
from tests.tflite.targets import (  # noqa: E402
    BUILD,
    SKIPPED,
    TFLITE,
    java_checks,
    litert_library,
    native_program,
)

call, sanitized = test_native.call, test_native.sanitized
pytestmark = test_native.pytestmark  # Java and ARM run the same C code

NETS = ("gated", "exits", "both")
COUNT = 16
NOISE = Measured("nothing")
KEYS = ["format", "unit", "device", "threads", "cache", "file_sha256", "costs", "plain"]


class Case:
    """A net, its files and its trials, in a folder of their own."""

    def __init__(self, folder, name):
        x = tinted(32)
        self.folder = folder
        if name == "both":
            trunk = spread_gates(small_net(groups=4), x)
            self.model = with_exits(trunk, ["block1"], x)
        else:
            self.model = net(name)
        report = self.export("net.tflite", forcible=True)
        self.export("plain.tflite", ungated=True)
        self.group_sizes = report.group_sizes
        self.trials = draw_trials(kd.LiteRTModel(self / "net.tflite"), COUNT)
        self.trials.save(self / "trials.json")

    def __truediv__(self, name):
        return self.folder / name

    def export(self, name, **options):
        options = kd.GateOptions(**options)
        return kd.export_tflite(
            self.model, self / name, options=options, parity_data=False
        )


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Cases by name, each made when first wanted."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = Case(tmp_path_factory.mktemp(name), name)
        return made[name]

    return get


@pytest.fixture
def runner():
    program = native_program()
    return lambda *words: call(program, "--library", litert_library(), *words)


def check_times(path, case, count=COUNT):
    """The JSON is whole, and a table can be fitted to it."""
    found = json.loads(path.read_text())
    assert list(found) == KEYS and found["format"] == "keras_dyngate costs 1"
    assert found["file_sha256"] == sha256_of(case / "net.tflite")
    costs = np.array(found["costs"])
    assert costs.shape == (count,) and (costs > 0).all()
    assert found["plain"] is None or found["plain"] > 0
    table = fit_costs(
        kd.count_macs(case.model),
        case.trials[:count].decided(),
        costs,
        unit=found["unit"],
        measured=NOISE,
        group_sizes=case.group_sizes,
        plain=found["plain"],
    )
    assert table.unit == found["unit"] and table.total > 0
    return found


@pytest.mark.parametrize("name", NETS)
def test_c_runner(cases, runner, tmp_path, name):
    case, out = cases(name), tmp_path / "times.json"
    given = ["--trials", case / "trials.json", "--json", out, "--rounds", "2"]
    more = ["--plain", case / "plain.tflite", "--device", 'my "phone" \\ é']
    done = runner(case / "net.tflite", "--threads", "2", *given, *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{COUNT} trials, \S+ to \S+ ms; plain \S+ ms\n", done.stdout)
    found = check_times(out, case)
    assert found["device"] == 'my "phone" \\ ??'  # two bytes that are not ASCII
    assert (found["unit"], found["threads"], found["cache"]) == ("ms", 2, "warm")
    assert found["plain"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["times.json"]


def test_c_runner_with_cold_caches_and_an_image(cases, runner, tmp_path):
    case, out, image = cases("both"), tmp_path / "times.json", tmp_path / "image.raw"
    tinted(1).astype("<f4").tofile(image)
    given = ["--trials", case / "trials.json", "--json", out, "--cold", "--rounds", "1"]
    done = runner(case / "net.tflite", f"image={image}", *given)
    assert (done.returncode, done.stderr) == (0, "")
    found = check_times(out, case)
    assert (found["cache"], found["plain"]) == ("cold", None) and found["device"]


def changed(**changes):
    """Trials with other entries."""
    return lambda noted: {**noted, **changes}


def without(key):
    return lambda noted: {k: value for k, value in noted.items() if k != key}


# Part of the message, and how the file is spoilt; the file takes 12 decisions.
WRONG = [
    (
        "trials must be JSON. Received: something else at byte 1",
        lambda noted: "{'a': 1}",
    ),
    ("must have the format", changed(format="keras_dyngate trials 2")),
    ("must have the format", lambda noted: [noted]),
    ("signature must be a name. Received: none", changed(signature=3)),
    ("the file has no signature guess", changed(signature="guess")),
    ("file_sha256 must be a text. Received: none", without("file_sha256")),
    ("held must be rows. Received: none", without("held")),
    ("held must be one row or more, all as long", changed(held=[])),
    ("held must be one row or more, all as long", changed(held=[[1], [1, 0]])),
    ("held must be one row or more, all as long", changed(held=[1, 0])),
    (
        "held must hold -1, 0 and 1. Received: another in row 1",
        changed(held=[[0], [2]]),
    ),
    ("held must hold -1, 0 and 1", changed(held=[["1"]])),
    ("trials must have 12 decisions each", changed(held=[[1] * 11])),
    ("trials must have 0 decisions each", changed(signature="classify")),
    ("trials must have 0 thresholds each", changed(thresholds=[[0.5]] * COUNT)),
    ("thresholds must be null or rows. Received: none", without("thresholds")),
    ("thresholds must be null or 16 rows", changed(thresholds=[[0.5]])),
    ("thresholds must hold numbers", changed(thresholds=[[1e39]] * COUNT)),
    ("thresholds must hold numbers", changed(thresholds=[[float("nan")]] * COUNT)),
]
OTHERS = [
    (2, "--trials needs --json", ["--trials", "{trials}"]),
    (2, "what goes with it needs --trials", ["--cold"]),
    (2, "--rounds must be a whole number above 0", ["--rounds", "0"]),
    (1, "cannot read", ["--trials", "{folder}/none", "--json", "{out}"]),
    (1, "cannot write", ["--trials", "{trials}", "--json", "{folder}/none/out"]),
    (
        1,
        "image has 1728 bytes, not 3",
        ["--trials", "{trials}", "--json", "{out}", "image={folder}/3bytes"],
    ),
    (
        1,
        "plain file must take an image alone",
        ["--trials", "{trials}", "--json", "{out}", "--plain", "{under}"],
    ),
]


def check_errors(case, tmp_path, run):
    """Every wrong file and word ends in its sentence, and leaves no file."""
    noted = json.loads((case / "trials.json").read_text())
    wrong, out = tmp_path / "wrong.json", tmp_path / "out.json"
    for message, spoil in WRONG:
        spoilt = spoil(noted)
        wrong.write_text(spoilt if isinstance(spoilt, str) else json.dumps(spoilt))
        done = run(case / "net.tflite", "--trials", wrong, "--json", out)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert done.stderr.startswith("runner: ") and done.stderr.count("\n") == 1
    (tmp_path / "3bytes").write_bytes(b"abc")
    names = {"folder": tmp_path, "out": out, "trials": case / "trials.json"}
    names["under"] = case / "under.tflite"
    for status, message, words in OTHERS:
        done = run(case / "net.tflite", *(word.format(**names) for word in words))
        assert done.returncode == status and message in done.stderr, done.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["3bytes", "wrong.json"]


@pytest.fixture
def case_of_errors(cases):
    """The gated net, and a file of it that answers with decisions of the caller alone."""
    from keras_dyngate.flatfile import flatbuffer

    case = cases("gated")
    model = flatbuffer.read((case / "net.tflite").read_bytes())
    model.signatureDefs = [
        each for each in model.signatureDefs if each.signatureKey == b"answer_under"
    ]
    (case / "under.tflite").write_bytes(flatbuffer.write(model))
    return case


def test_errors(case_of_errors, runner, tmp_path):
    check_errors(case_of_errors, tmp_path, runner)


def test_errors_under_sanitizers(case_of_errors, sanitized, tmp_path):
    # What is not given back at `exit` is no leak.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:exitcode=86"}
    command = [sanitized / "runner", "--library", litert_library()]
    check_errors(
        case_of_errors, tmp_path, lambda *words: call(*command, *words, env=environment)
    )


@pytest.mark.parametrize("name", NETS)
def test_damaged_trials_under_sanitizers(cases, sanitized, name):
    """Cut off at every byte, and with bytes changed: refused, or read."""
    path = cases(name) / "trials.json"
    done = call(sanitized / "fuzz", path)
    assert done.returncode == 0, done.stderr
    counts = {k: int(n) for k, n in re.findall(r"^(.*): (\d+)$", done.stdout, re.M)}
    assert counts["refused"] > path.stat().st_size and counts["ran"] > 100


def test_every_call_of_litert_fails_once(sanitized):
    done = call(sanitized / "fuzz", sanitized / "libstub.so")
    assert done.returncode == 0, done.stderr
    well, tried = re.search(
        r"^trials: (\d+) of (\d+) rounds", done.stderr, re.M
    ).groups()
    assert int(well) > 0 and int(tried) > 200


@pytest.mark.parametrize("name", NETS)
def test_java(cases, tmp_path, name):
    case, out = cases(name), tmp_path / "times.json"
    files = [case / each for each in ("net.tflite", "plain.tflite", "trials.json")]
    environment = {**os.environ, "LITERT_LIBRARY": os.fspath(litert_library())}
    done = call(java_checks(), "trials", *files, out, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d+ checks, 0 failed$", done.stdout, re.M)
    found = check_times(out, case)
    assert found["device"] == 'a "JVM" \\ ?' and found["plain"] > 0
    assert (found["unit"], found["threads"], found["cache"]) == ("ms", 1, "warm")


def emulate(*words):
    return call(sys.executable, TFLITE / "arm" / "emulate.py", "trials", *words)


def test_instructions_predict_trials_they_were_not_fitted_to(cases, tmp_path):
    library = BUILD / "arm" / "libLiteRt.so"
    if not library.is_file():
        pytest.skip("needs LiteRT for ARM, which tflite/test_all.sh fetches")
    (tmp_path / library.name).symlink_to(library)  # the runner is built anew
    case, out, fitted, count = cases("gated"), tmp_path / "times.json", 8, 12
    files = [case / "net.tflite", case / "trials.json", f"--folder={tmp_path}"]
    options = ["--counted=cortex-a76", f"--trials_limit={count}"]
    plain = f"--plain={case / 'plain.tflite'}"
    done = emulate(*files, plain, f"--json={out}", *options)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{count} of {COUNT} trials on cortex-a76" in done.stdout
    found = check_times(out, case, count)
    assert found["device"] == "cortex-a76 (emulated)"
    assert (found["unit"], found["threads"]) == ("instructions", 1)
    costs = np.array(found["costs"])
    assert costs[0] == costs.max() and costs[0] > 4 * costs[1]
    assert 0.7 * costs[0] < found["plain"] < costs[0]
    table = fit_costs(
        kd.count_macs(case.model),
        case.trials[:fitted].decided(),
        costs[:fitted],
        unit="instructions",
        measured=NOISE,
        group_sizes=case.group_sizes,
    )
    predicted = table.of(case.trials[fitted:count].decided())
    np.testing.assert_allclose(predicted, costs[fitted:], rtol=0.02)


def test_emulation_refuses_trials_of_another_file(cases):
    case = cases("gated")
    done = emulate(case / "plain.tflite", case / "trials.json")
    assert done.returncode == 1 and "for another file" in done.stderr
    done = emulate(case / "net.tflite")
    assert done.returncode != 0 and "`trials FILE TRIALS`" in done.stdout + done.stderr
