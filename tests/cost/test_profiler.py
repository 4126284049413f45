"""TensorFlow's profiler as the other witness: the kernels of keras.applications."""

import keras
import pytest

import keras_dyngate as kd

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "TensorFlow's profiler counts TensorFlow's graphs", allow_module_level=True
    )

import tensorflow as tf

# Without a number in the profiler's list would be: Einsum, and what XLA compiles.
KERNELS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2")


def profiled(model):
    """Multiply-adds of the kernels for one image; the profiler counts both, so / 2."""
    specs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in model.inputs]
    function = tf.function(lambda x: model(x, training=False))
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(
        profiler.ProfileOptionBuilder.float_operation()
    )
    found = profiler.profile(
        graph=function.get_concrete_function(*specs).graph,
        run_meta=tf.compat.v1.RunMetadata(),
        cmd="op",
        options=options.with_empty_output().build(),
    )
    kinds, rest = {}, [found]
    while rest:
        node = rest.pop()
        kinds[node.name] = node.float_ops
        rest += node.children
    return sum(kinds.get(kind, 0) for kind in KERNELS) / 2


def grouped(model):
    """Convolutions in groups: XLA compiles them, the profiler sees a function call."""
    names = {x.name for x in model.layers if getattr(x, "groups", 1) > 1}
    return sum(row.macs for row in kd.count_macs(model).layers if row.layer in names)


QUICK = {"VGG16": 32, "MobileNetV2": 32, "MobileNetV3Small": 32, "Xception": 71}
SLOW = {
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "ResNet50": 32,
    "ConvNeXtTiny": 32,
}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *QUICK.items(),
        *(pytest.param(*item, marks=pytest.mark.heavy) for item in SLOW.items()),
    ],
)
def test_keras_applications(name, side):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(side, side, 3), classes=10)
    profile, expected = kd.count_macs(model), profiled(model)
    assert expected > 1e6 and profile.unknown == ()
    counted_otherwise = grouped(model)
    assert (counted_otherwise > 0) == (name == "ConvNeXtTiny")
    assert profile.total - counted_otherwise == pytest.approx(expected, rel=0.01)
