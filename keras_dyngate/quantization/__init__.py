"""Quantization-aware training: nets that compute as their int8 files will.

    model = kd.quantize_aware(net, x_train[:256])
    model.fit(...)
    kd.export_tflite(model, "net.tflite", quantization="int8")  # needs no data

Needs TensorFlow and tensorflow-model-optimization:
`pip install "keras_dyngate[quantization]"`.
"""

from keras_dyngate.quantization.quantize_aware import quantize_aware
from keras_dyngate.quantization.strip import strip_quantization

__all__ = ["quantize_aware", "strip_quantization"]
