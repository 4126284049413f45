"""Two JAX processes, as on two machines, each with half of every batch, over loopback.

The halves are not alike: sorted apart, they would give another batch-shaping loss.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_dyngate as kd
from tests.backend_utils import BACKEND

ROOT = Path(kd.__file__).parent.parent

TRAINING = """
import sys
import keras
import numpy as np
import keras_dyngate as kd

out, host, *addresses = sys.argv[1:]
host, count = int(host), max(len(addresses), 1)
if addresses:
    keras.distribution.initialize(",".join(addresses), count, host)
    data_parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(data_parallel)
rows = slice(host * 16 // count, (host + 1) * 16 // count)

def stream(step):
    while True:
        rng = np.random.default_rng(step)
        x = rng.normal(size=(16, 4, 4, 3)) * np.linspace(0.2, 3, 16)[:, None, None, None]
        yield x[rows].astype("float32"), rng.integers(0, 3, 16)[rows]
        step += 1

keras.utils.set_random_seed(0)
x = image = keras.Input((4, 4, 3))
falling = kd.LinearSchedule(0.75, 0.0)
price = kd.GateSparsity(0.0, weighting="macs")
for index in range(2):
    regularizers = [kd.BatchShaping(coefficient=falling), price]
    gate = kd.BinaryGate(3, bias_initializer=1.0, regularizers=regularizers)
    x = kd.GatedBasicBlock(3, channel_gate=gate, name=f"block{index}")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
model.compile(keras.optimizers.SGD(0.05, 0.9), "sparse_categorical_crossentropy")
probe = np.random.default_rng(1).normal(size=(8, 4, 4, 3)).astype("float32")
budget = kd.MacBudget(0.5, probe, every=2)
checkpoint = kd.TrainingCheckpoint(f"{out}.npz", every=2, stateful=[budget])
history = checkpoint.fit(
    model, stream, steps_per_epoch=4, epochs=1, verbose=0,
    callbacks=[kd.RegularizationSchedule(), budget],
)
weights = {str(i): np.array(w) for i, w in enumerate(model.trainable_weights)}
np.savez(f"{out}_weights.npz", loss=history.history["loss"], price=budget.price, **weights)
"""


@pytest.mark.heavy
@pytest.mark.skipif(BACKEND != "jax", reason="several processes need JAX")
def test_two_processes_train_as_one(tmp_path):
    # Held while the test runs, so that no other process is given the same port.
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port.bind(("localhost", 0))
    address = f"localhost:{port.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiling takes longest
    }
    hosts = {"one": ["0"], "a": ["0", address, address], "b": ["1", address, address]}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(tmp_path / name), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in hosts.items()
    }
    found = {}
    with port:
        for name, process in running.items():
            _, stderr = process.communicate(timeout=500)
            assert process.returncode == 0, stderr[-3000:]
            with np.load(tmp_path / f"{name}_weights.npz") as file:
                found[name] = {key: file[key] for key in file.files}
    for name, expected in found["one"].items():
        np.testing.assert_array_equal(found["a"][name], found["b"][name])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            found["a"][name], expected, rtol=1e-4, atol=1e-4 * scale
        )
    assert abs(found["one"]["price"]) > 1e-3  # the budget was followed
