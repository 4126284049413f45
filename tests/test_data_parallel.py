"""Two devices, each with half of the batch, take the step that one device would take.

The halves differ in scale: two sorts of a half each are no sort of the whole.
Logical devices have to be set up before a backend starts: in another process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_dyngate as kd
from tests import reference
from tests.backend_utils import BACKEND

ROOT = Path(kd.__file__).parent.parent

STEP = """
import json, sys
import numpy as np
import keras
import keras_dyngate as kd
from tests.stubs import MeanController

def run(value_of=None):
    x = np.load(sys.argv[1])
    keras.utils.set_random_seed(0)
    image = keras.Input(x.shape[1:])
    gate = MeanController(3, regularizers=[kd.BatchShaping(), kd.GateSparsity(0.1)])
    model = keras.Model(image, gate(image).logit)
    start = keras.ops.convert_to_numpy(gate.kernel)
    value = value_of(gate, x) if value_of else None
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    history = model.fit(x, batch_size=len(x), epochs=1, shuffle=False, verbose=0)
    stepped = keras.ops.convert_to_numpy(gate.kernel)
    logged = history.history["loss"][0]
    value = logged if value is None else value
    return [value, (start - stepped).tolist(), start.tolist(), logged]
"""

TENSORFLOW = (
    """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
"""
    + STEP
    + """
def value_of(gate, x):
    parts = np.split(x, 2)
    x = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )

    @tf.function
    def penalties(x):
        output = gate(x, training=True)
        pairs = zip(gate.coefficients, gate.regularizers)
        return tf.stack([coefficient * item(output) for coefficient, item in pairs])

    values = strategy.experimental_local_results(strategy.run(penalties, (x,)))
    shaping, sparsity = np.transpose([value.numpy() for value in values])
    assert shaping[0] == shaping[1], "the sort is over all rows, on both replicas"
    assert sparsity[0] != sparsity[1]
    return float(shaping[0] + sparsity.mean())

one = run()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    two = run(value_of)
print(json.dumps([one, two]))
"""
)

JAX = (
    STEP
    + """
import jax
assert len(jax.devices()) == 2
one = run()
keras.distribution.set_distribution(keras.distribution.DataParallel())
two = run()
print(json.dumps([one, two]))
"""
)


@pytest.mark.skipif(BACKEND == "torch", reason="no data parallelism in Keras on torch")
def test_value_and_gradient_are_those_of_one_process(tmp_path):
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(16, 1, 1, 4))
        * np.where(np.arange(16) < 8, 0.2, 3.0)[:, None, None, None]
    )
    np.save(tmp_path / "x.npy", x.astype("float32"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": BACKEND}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TENSORFLOW if BACKEND == "tensorflow" else JAX,
            str(tmp_path / "x.npy"),
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = json.loads(done.stdout.splitlines()[-1])

    kernel = np.array(one[2])
    np.testing.assert_array_equal(two[2], kernel)
    t = x[:, 0, 0] @ kernel
    sparsity = 0.1 * (1 / (1 + np.exp(-t))).mean(axis=0).sum()
    expected = 0.75 * reference.batch_shaping(t).sum() / 16 + sparsity
    np.testing.assert_allclose(one[0], expected, rtol=1e-5)
    np.testing.assert_allclose(two[0], expected, rtol=1e-5)
    np.testing.assert_allclose(two[3], expected, rtol=1e-5)  # and so `fit` logs it
    halves = [reference.batch_shaping(half).sum() / 8 for half in (t[:8], t[8:])]
    assert abs(0.75 * np.mean(halves) + sparsity - expected) > 1e-2 * expected

    gradient = np.array(one[1])
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(two[1], gradient, rtol=1e-4, atol=1e-6)
    step = 1e-5
    for index in np.ndindex(kernel.shape):  # and both are the gradient
        moved = np.zeros_like(kernel)
        moved[index] = step
        values = []
        for sign in (1, -1):
            t = x[:, 0, 0] @ (kernel + sign * moved)
            value = 0.75 * reference.batch_shaping(t).sum() / 16
            values.append(value + 0.1 * (1 / (1 + np.exp(-t))).mean(axis=0).sum())
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-3, atol=1e-5)
