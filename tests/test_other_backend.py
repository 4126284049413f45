"""Trained on JAX, exported on TensorFlow: one `.keras` file in between.

Keras has one backend per process, so the training runs in another.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.backend_utils import BACKEND

ROOT = Path(kd.__file__).parent.parent

TRAINING = """
import sys
from functools import partial
from pathlib import Path
import keras
import numpy as np
import keras_dyngate as kd
from tests.export.nets import raw_logits, small_net, tinted

assert keras.backend.backend() == "jax"
folder, images = Path(sys.argv[1]), tinted(24)
gate = partial(kd.BinaryGate, regularizers=[kd.BatchShaping(), kd.GateSparsity(0.1)])
model = small_net(filters=8, gate=gate)
start = [np.array(weight) for weight in model.trainable_weights]
model.compile(
    keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", jit_compile=False
)
model.fit(images, np.arange(24) % 7, batch_size=8, verbose=0)
for before, weight in zip(start, model.trainable_weights):
    assert (before != np.array(weight)).any(), weight.path
model.save(folder / "net.keras")
logits = raw_logits(model, images)
np.savez(folder / "found.npz", images=images, logits=logits, **kd.decide(model, images))
"""


@pytest.mark.heavy
@pytest.mark.skipif(BACKEND != "tensorflow", reason="files are made on TensorFlow")
def test_a_net_trained_on_jax_says_the_same_in_litert(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "found.npz") as file:
        found = {name: file[name] for name in file.files}
    images, logits = found.pop("images"), found.pop("logits")
    assert set(found) == {"block1/channel", "block2/channel"}
    rate = np.mean([values.mean() for values in found.values()])
    assert 0.05 < rate < 0.95, "the test must see open and shut gates"
    assert len(set(logits.argmax(1))) > 1

    model = keras.saving.load_model(tmp_path / "net.keras", compile=False)
    path = tmp_path / "net.tflite"
    kd.export_tflite(model, path, parity_data=images[:4])
    litert = kd.LiteRTModel(path)
    for index, image in enumerate(images):
        told = litert.run("explain", image=image)
        np.testing.assert_allclose(
            told["logits"][0],
            logits[index],
            rtol=1e-4,
            atol=1e-4 * np.abs(logits).max(),
        )
        assert told["label"][0] == logits[index].argmax()
        for name, values in found.items():
            np.testing.assert_array_equal(told[name].ravel(), values[index])
