"""What importing the package does, and does not; each in a process of its own."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, randomize

ROOT = Path(kd.__file__).parent.parent


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
        kd.LiteRTModel
        heavy = ("keras", "tensorflow", "jax", "torch", "scipy", "rich")
        print(json.dumps([name for name in heavy if name in sys.modules]))
    """
    assert run(code) == []


def test_importing_changes_no_environment_and_registers():
    code = """if True:
        import json, os
        import keras_dyngate as kd
        kd.LiteRTModel
        import keras
        before = dict(os.environ)
        registered = keras.saving.get_registered_object
        early = registered("keras_dyngate>BinaryGate")
        kd.gated_resnet20, kd.count_macs, kd.decide
        late = registered("keras_dyngate>BinaryGate")
        same = dict(os.environ) == before
        print(json.dumps([same, early is None, late is kd.BinaryGate]))
    """
    assert run(code) == [True, True, True]


def test_files_load_with_nothing_but_the_package(tmp_path):
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
    x = images(2, 8, 8, 3)
    model.save(tmp_path / "net.keras")
    np.save(tmp_path / "x.npy", x)
    code = """if True:
        import json, sys
        import keras
        import keras_dyngate
        import numpy as np
        model = keras.saving.load_model(sys.argv[1])
        y = model(np.load(sys.argv[2]), training=False)
        print(json.dumps(keras.ops.convert_to_numpy(y).tolist()))
    """
    found = run(code, tmp_path / "net.keras", tmp_path / "x.npy")
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", kd.__all__)
def test_public_names_resolve(name):
    found = getattr(kd, name)
    module = importlib.import_module(f"keras_dyngate.{kd._HOME[name]}")
    assert found is getattr(module, name)
    assert inspect.getdoc(found), "a public name needs a docstring"
    assert name in dir(kd)


def test_public_classes_can_be_saved():
    bases = (keras.Layer, kd.GateRegularizer, kd.LinearSchedule)
    abstract = (kd.Controller, kd.GateRegularizer)
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


def test_unknown_names():
    with pytest.raises(AttributeError, match="'keras_dyngate' has no attribute 'nope'"):
        kd.nope  # noqa: B018
    assert not hasattr(kd, "_HOUSE")
