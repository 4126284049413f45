"""Files of plain TensorFlow functions, small enough to compute by hand."""

import json
import os

import pytest

from keras_dyngate.flatfile import flatbuffer


def write_file(folder, signatures, metadata=None):
    """A file in a folder.

    Args:
        folder: An existing one, without `model.tflite`.
        signatures: By name: the function, and TensorSpecs of what it takes by name.
        metadata: What `LiteRTModel.metadata` will be.
    """
    tf = pytest.importorskip("tensorflow")
    traced = {
        name: tf.function(function, autograph=False).get_concrete_function(**specs)
        for name, (function, specs) in signatures.items()
    }
    saved = os.fspath(folder / "saved")
    tf.saved_model.save(tf.Module(), saved, signatures=traced)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved, signature_keys=list(traced)
    )
    model = flatbuffer.read(converter.convert())
    if metadata is not None:
        flatbuffer.set_metadata(model, "keras_dyngate", json.dumps(metadata).encode())
    path = folder / "model.tflite"
    path.write_bytes(flatbuffer.write(model))
    return path
