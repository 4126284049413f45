"""Small files of all methods with golden cases, made anew wherever they are needed.

    python -m tests.tflite.golden_files FOLDER

writes a folder of cases per method and quantization, for machines other than this one.
"""

import sys
from pathlib import Path

import keras_dyngate as kd
from keras_dyngate.runtime import write_golden
from tests.export.nets import (
    cascade,
    conv_net,
    raw_logits,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)
from tests.models.gating.nets import lively, mobile
from tests.stubs import randomize

METHODS = ("gated", "lc", "own", "exits", "cascade", "anytime")
QUANTIZATIONS = ("float32", "dynamic", "int8")
LABELS = ["zero", "one", "two", "three", "four", "five", "six"]


def net(method):
    """A lively net of a method, for images `[12, 12, 3]`."""
    x = tinted(32)
    if method == "gated":
        return spread_gates(small_net(groups=4), x)
    if method == "lc":
        gate = kd.SalienceController
        return spread_gates(small_net(groups=4, layers=True, gate=gate), x)
    if method == "own":  # a net of anybody's, gated afterwards
        own = mobile(shape=x.shape[1:], classes=7)
        model = lively(kd.add_layer_gates(kd.add_channel_gates(own)), x)
        head = model.layers[-1]  # no label is right for most images
        head.bias.assign(head.bias - raw_logits(model, x).mean(0))
        return model
    if method == "exits":
        return with_exits(conv_net(), ["a", "b"], x)
    if method == "cascade":
        return cascade(x, confidence="probability")
    model = kd.sliced_resnet(
        blocks=1, width=36, subnetworks=3, input_shape=x.shape[1:], classes=7
    )
    return randomize(model)


def write(method, quantization, folder):
    """Export the net and write its cases to `folder / <method>-<quantization>`."""
    path = Path(folder) / f"{method}-{quantization}.tflite"
    kd.export_tflite(
        net(method),
        path,
        quantization=None if quantization == "float32" else quantization,
        representative_data=tinted(32),
        labels=LABELS,
    )
    # Images without near ties: other kernels round 8-bit numbers another way.
    write_golden(path, path.with_suffix(""), tinted(6, seed=4))
    path.unlink()
    return path.with_suffix("")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for method in METHODS:
        for quantization in QUANTIZATIONS:
            print(write(method, quantization, target))
