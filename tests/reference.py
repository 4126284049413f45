"""Residual nets once more, in NumPy and float64, from PyTorch's names and layouts."""

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


def batch_norm(x, weights, name):
    w = {k: weights[f"{name}.{k}"] for k in ("weight", "bias", "running_mean")}
    scale = w["weight"] / np.sqrt(weights[f"{name}.running_var"] + 1e-5)
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


def batch_shaping(logits, a=0.6, b=0.4):
    """Per gate: sum over the sorted batch of `(j / (N + 1) - F(sigmoid(t)))**2`."""
    t = np.sort(np.asarray(logits, "float64"), axis=0)
    n = len(t)
    rank = np.arange(1, n + 1).reshape(-1, *[1] * (t.ndim - 1)) / (n + 1)
    return np.square(rank - beta.cdf(1 / (1 + np.exp(-t)), a, b)).sum(axis=0)
