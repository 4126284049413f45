"""What importing the package does, and does not; each in a process of its own."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate
import keras_dyngate as kd
from tests.stubs import randomize

ROOT = Path(kd.__file__).parent.parent

pytestmark = pytest.mark.heavy


def run(code, *arguments):
    """Run code in another process; what it prints, read as JSON."""
    environment = {"PYTHONPATH": str(ROOT), **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_device_needs_neither_keras_nor_a_backend():
    code = """if True:
        import json, sys
        import keras_dyngate.runtime
        import keras_dyngate as kd
        kd.LiteRTModel, kd.ExitOutcome, kd.Promise
        from keras_dyngate.thresholds import search as exit_search
        from keras_dyngate.thresholds import mixing
        from keras_dyngate.thresholds import wish
        heavy = ("keras", "tensorflow", "jax", "torch", "scipy", "rich")
        print(json.dumps([name for name in heavy if name in sys.modules]))
    """
    assert run(code) == []


# ## Keras finds the classes, whichever package is imported first


def test_every_class_has_a_stand_in_and_the_environment_is_left_alone():
    code = """if True:
        import importlib, json, os, pkgutil
        import keras_dyngate as kd
        from keras_dyngate import runtime
        import keras
        before, table = dict(os.environ), keras.saving.get_custom_objects()
        early = {name: item for name, item in table.items() if "keras_dyngate>" in name}
        for room in kd._SAVED:
            module = importlib.import_module(f"keras_dyngate.{room}")
            for item in pkgutil.iter_modules(getattr(module, "__path__", ())):
                importlib.import_module(f"keras_dyngate.{room}.{item.name}")
        late = {name for name, item in table.items() if early.get(name) is not item}
        missing = [n for n in late if "keras_dyngate>" in n and n not in early]
        gate = early["keras_dyngate>BinaryGate"](3, name="made")  # called as a class
        same = dict(os.environ) == before
        found = keras.saving.get_registered_object("keras_dyngate>BinaryGate")
        print(json.dumps([
            same, missing, len(late) > 20, found is kd.BinaryGate is type(gate),
            gate.units, gate.name,
        ]))
    """
    assert run(code) == [True, [], True, True, 3, "made"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A net of gates and schedules in a file, and its weights' sums."""
    folder = tmp_path_factory.mktemp("saved")
    image = keras.Input((8, 8, 3))
    schedule = kd.LinearSchedule(0.7, 0.0)
    block = kd.GatedBasicBlock(
        4,
        channel_gate=kd.BinaryGate(
            2, regularizers=kd.BatchShaping(coefficient=schedule)
        ),
        layer_gate="binary",
    )
    model = randomize(keras.Model(image, block(image)))
    model.save(folder / "net.keras")
    return folder, [float(weight.sum()) for weight in model.get_weights()]


ORDERS = {
    "first": "import keras_dyngate, keras",
    "last": "import keras, keras_dyngate",
    "lazily": "import keras_dyngate, tensorflow; keras = tensorflow.keras",
    "runtime, in a thread": """
import threading
from keras_dyngate import runtime
def load():
    global keras
    import keras
threads = [threading.Thread(target=load) for _ in range(2)]
[thread.start() for thread in threads]
import keras_dyngate.layers
[thread.join() for thread in threads]
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_files_load_with_nothing_but_the_package(saved, order):
    if order == "lazily" and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("`tf.keras` needs TensorFlow")
    folder, expected = saved
    code = f"""{ORDERS[order]}
import json, sys
model = keras.models.load_model(sys.argv[1])
print(json.dumps([float(weight.sum()) for weight in model.get_weights()]))
"""
    found = run(code, folder / "net.keras")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


class TestStandInsWithAKerasOfOurOwn:
    """A small `keras` that counts, so that many orders can be tried quickly."""

    @pytest.fixture
    def imitation(self, tmp_path):
        """Run code beside a `keras` package of this text."""

        def run_beside(text, code):
            (tmp_path / "keras").mkdir(exist_ok=True)
            (tmp_path / "keras" / "__init__.py").write_text(text)
            start = f"import json, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            return run(start + code)

        return run_beside

    KERAS = """
table = {}
class saving:
    get_custom_objects = staticmethod(lambda: table)
"""
    NAMES = "sorted(n for n in keras.table if n.startswith('keras_dyngate>'))"

    def test_what_is_registered_stays_and_reloading_adds_nothing(self, imitation):
        found = imitation(
            self.KERAS + "table['keras_dyngate>BinaryGate'] = 1\n",
            f"""
import importlib, keras_dyngate
finders = len(sys.meta_path)
importlib.reload(keras_dyngate)
added = len(sys.meta_path) - finders
import keras
names, kept = {self.NAMES}, keras.table["keras_dyngate>BinaryGate"]
importlib.reload(keras_dyngate)
again = keras.table["keras_dyngate>BinaryGate"]
clean = "exec_module" not in vars(keras.__loader__)
importlib.reload(keras)
late = {self.NAMES}
heavy = [n for n in sys.modules if n.startswith("keras_dyngate.layers")]
print(json.dumps([added, len(names) > 20, kept, again, clean, late == names, heavy]))
""",
        )
        assert found == [0, True, 1, 1, True, True, []]

    def test_errors_of_keras_pass_through_and_it_may_be_tried_again(self, imitation):
        found = imitation(
            "import sys\nif not hasattr(sys, 'ready'): raise ImportError('no backend')\n"
            + self.KERAS,
            f"""
import keras_dyngate
try:
    import keras
except ImportError as error:
    first = str(error)
sys.ready = True
import keras
print(json.dumps([first, len({self.NAMES}) > 20]))
""",
        )
        assert found == ["no backend", True]

    def test_no_keras_is_said_as_always(self, tmp_path):
        code = f"""if True:
            import json, sys
            import keras_dyngate
            sys.path[:] = [{str(tmp_path)!r}]
            sys.meta_path[:] = [  # an editable install may bring a finder
                f for f in sys.meta_path if "_KerasFinder" in str(f)
            ]
            try:
                import keras
            except ModuleNotFoundError as error:
                print(json.dumps([error.name, str(error)]))
        """
        assert run(code) == ["keras", "No module named 'keras'"]

    def test_an_older_keras_is_left_alone(self, imitation):
        code = "import keras_dyngate, keras; print(json.dumps(keras.__version__))"
        assert imitation("__version__ = '2.0'", code) == "2.0"

    def test_a_keras_that_is_only_half_there_is_waited_for(self, imitation):
        """Another thread is in the middle of importing it."""
        found = imitation(
            "import sys, time\nsys.begun.set()\ntime.sleep(0.5)\n" + self.KERAS,
            f"""
import threading
sys.begun = threading.Event()
def load():
    import keras
thread = threading.Thread(target=load)
thread.start()
sys.begun.wait()
half = not hasattr(sys.modules["keras"], "saving")
import keras_dyngate
import keras
thread.join()
print(json.dumps([half, len({self.NAMES}) > 20]))
""",
        )
        assert found == [True, True]


@pytest.mark.parametrize("name", kd.__all__)
def test_public_names_resolve(name):
    found = getattr(kd, name)
    module = importlib.import_module(kd._HOMES[name])
    assert found is getattr(module, name) and found.__module__ == kd._HOMES[name]
    assert inspect.getdoc(found), "a public name needs a docstring"
    assert name in dir(kd)


def test_modules_offer_what_is_public_in_them():
    assert keras_dyngate.models.resnet34 is kd.resnet34
    for module in ("callbacks", "models"):
        with pytest.raises(AttributeError, match="has no attribute 'LiteRTModel'"):
            importlib.import_module(f"keras_dyngate.{module}").LiteRTModel  # noqa: B018


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow" or not importlib.util.find_spec("mypy"),
    reason="once for all backends, where mypy is installed",
)
def test_mypy_knows_every_name_and_what_builders_take(tmp_path):
    calls = {
        "kd.gated_resnet34(gates=kd.Gates(groups=4), width=0.5)": "",
        "kd.gated_resnet34(gate=kd.Gates())": 'keyword argument "gate"',
        "kd.resnet34(gates=None)": 'keyword argument "gates"',
        'kd.densenet121(name="a", growth=2)': 'keyword argument "growth"',
        'kd.lc_resnet20(leak="0")': '"leak" has incompatible type "str"',
        'kd.pspnet50("trunk.keras")': "Too many positional arguments",
        "kd.sliced_resnet(cardinality=2)": 'keyword argument "cardinality"',
        "kd.Gates(group=4)": 'keyword argument "group"',
        'kd.export_tflite(1, "a", quantisation=None)': '"quantisation"',
        'kd.LiteRTModel("a").evaluate(1, y=2)': "",
        'kd.LiteRTModel("a").predict(1)': 'no attribute "predict"',
        "kd.runtime.measure_latency": "",
        "kd.nope": 'has no attribute "nope"',
    }
    names = [f"kd.{name}" for name in kd.__all__]
    script = tmp_path / "user.py"
    script.write_text("\n".join(["import keras_dyngate as kd", *calls, *names]))
    options = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, script.name],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines()[:-1]:
        number, said = line.removeprefix("user.py:").split(": ", 1)
        found[number] = found.get(number, "") + said
    for number, (call, message) in enumerate(calls.items(), 2):
        said = found.pop(str(number), "")
        assert message in said and bool(message) == bool(said), (call, said)
    assert not found, done.stdout + done.stderr


def test_public_classes_can_be_saved():
    bases = (keras.Layer, kd.GateRegularizer, kd.LinearSchedule)
    abstract = (kd.Controller, kd.DynamicLayer, kd.GateRegularizer, kd.GatedChain)
    abstract += (kd.Distillation,)  # wraps the net that is saved
    classes = [
        found
        for found in (getattr(kd, name) for name in kd.__all__)
        if inspect.isclass(found) and issubclass(found, bases)
    ]
    assert len(classes) > 5
    for cls in classes:
        if cls not in abstract:
            name = f"keras_dyngate>{cls.__name__}"
            assert keras.saving.get_registered_name(cls) == name
            assert keras.saving.get_registered_object(name) is cls


def test_names_that_moved_work_and_say_where_to():
    for old, name, new in (
        ("calibration", "prime_gates", "channels"),
        ("calibration", "ExitTable", "thresholds"),
        ("losses", "AnytimeAccuracy", "metrics"),
    ):
        module = importlib.import_module(f"keras_dyngate.{old}")
        where = f"keras_dyngate.{new}.{name}"
        with pytest.warns(DeprecationWarning, match=where):
            found = getattr(module, name)
        assert found is getattr(importlib.import_module(f"keras_dyngate.{new}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        importlib.import_module("keras_dyngate.calibration").nope  # noqa: B018


def test_unknown_names():
    with pytest.raises(AttributeError, match="'keras_dyngate' has no attribute 'nope'"):
        kd.nope  # noqa: B018
    assert not hasattr(kd, "_HOUSE")
