"""What the operators of `keras.ops` cost. All but those named here cost nothing.

A product counts where it is summed up: matrix products and convolutions do, `x * y`, an
outer product or a mean do not.
"""

import math
import string
from collections.abc import Callable, Sequence

import numpy as np

from keras_dyngate._graph import Call
from keras_dyngate.cost.registry import (
    OPERATORS,
    Count,
    arguments,
    shape_of,
    uncounted,
    volume,
)

# Loops and branches run functions of their own, as often as the data say.
_UNCOUNTED = """
    AssociativeScan CDist CTCDecode CTCLoss Cond Convolve Corrcoef Correlate
    ElasticTransform FFT FFT2 ForiLoop GaussianBlur IFFT2 IRFFT ISTFT JVP Logdet Map
    RFFT SSIM STFT Scan SobelEdges Switch VectorizedMap WhileLoop
"""
OPERATORS.update(dict.fromkeys(_UNCOUNTED.split(), uncounted))


def _operator(*names: str) -> Callable[[Count], Count]:
    def register(count: Count) -> Count:
        OPERATORS.update(dict.fromkeys(names, count))
        return count

    return register


@_operator("Norm")  # among the operators of linear algebra, a reduction
def _reduction(call: Call) -> int:
    return 0


@_operator("Matmul", "Dot", "Inner")
def _matmul(call: Call) -> int:
    left, right = (shape_of(x) for x in arguments(call).values())
    return volume(call.outputs[0]) * left[-1] if left and right else 0


@_operator("Vdot")
def _vdot(call: Call) -> int:
    return volume(arguments(call)["x1"])


@_operator("Tensordot")
def _tensordot(call: Call) -> int:
    shape, axes = shape_of(arguments(call)["x1"]), call.operation.axes
    summed = range(-axes, 0) if isinstance(axes, int) else np.atleast_1d(axes[0])
    if not len(summed):
        return 0
    return volume(call.outputs[0]) * math.prod(shape[axis] for axis in summed)


@_operator("Einsum")
def _einsum(call: Call) -> int:
    return einsum_macs(call.operation.subscripts, [shape_of(x) for x in call.args])


@_operator("Conv")
def _conv(call: Call) -> int:
    return volume(call.outputs[0]) * math.prod(shape_of(arguments(call)["kernel"])[:-1])


@_operator("DepthwiseConv")
def _depthwise_conv(call: Call) -> int:
    return volume(call.outputs[0]) * math.prod(shape_of(arguments(call)["kernel"])[:-2])


@_operator("SeparableConv")
def _separable_conv(call: Call) -> int:
    given = arguments(call)
    kernels = [given["depthwise_kernel"], given["pointwise_kernel"]]
    positions = volume(call.outputs[0]) // shape_of(kernels[1])[-1]
    return positions * sum(map(volume, kernels))


@_operator("ConvTranspose")
def _conv_transpose(call: Call) -> int:
    given = arguments(call)
    return volume(given["inputs"]) * math.prod(shape_of(given["kernel"])[:-1])


@_operator("DotProductAttention")
def _dot_product_attention(call: Call) -> int:
    """Of a query with every key, and of the weights with every value."""
    given = arguments(call)
    keys, features = (shape_of(given["value"])[axis] for axis in (1, -1))
    query = shape_of(given["query"])
    return math.prod(query[:-1]) * keys * (query[-1] + features)


def einsum_labels(
    subscripts: str, shapes: Sequence[Sequence[int]]
) -> tuple[list[str], str, dict[str, int]]:
    """One letter per axis: of each operand, of the output; and the axes' sizes."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    unused = [chr(n) for n in range(192, 192 + max(map(len, shapes), default=0))]
    for i, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        count = len(shape) - len(term.replace("...", ""))
        terms[i] = term.replace("...", "".join(unused[len(unused) - count :]))
    letters = "".join(terms)
    dots = sorted({x for x in letters if x in unused})
    if not arrow:
        once = sorted({x for x in letters if letters.count(x) == 1} - set(dots))
        output = "".join([*dots, *once])
    output = output.replace("...", "".join(dots))
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return terms, output, sizes


def einsum_macs(subscripts: str, shapes: Sequence[Sequence[int]]) -> int:
    """MACs of an Einstein sum, operand by operand as NumPy would order them."""
    terms, output, sizes = einsum_labels(subscripts, shapes)
    if len(terms) == 1:
        return 0
    path = [tuple(range(len(terms)))]
    if len(terms) > 2:
        whole = ",".join(terms) + "->" + output
        names = dict(zip(sizes, string.ascii_letters, strict=False))
        blank = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
        plain = "".join(names.get(x, x) for x in whole)
        path = np.einsum_path(plain, *blank, optimize="greedy")[0][1:]
    macs = 0
    for step in path:
        taken = [terms.pop(i) for i in sorted(step, reverse=True)]
        needed = set(output).union(*terms)
        shared = {x for x in "".join(taken) if sum(x in t for t in taken) > 1}
        # What one operand alone has, and nobody needs, is summed before the product.
        labels = {x for x in "".join(taken) if x in needed or x in shared}
        if labels - needed:
            macs += (len(taken) - 1) * math.prod(sizes[x] for x in labels)
        terms.append("".join(sorted(labels & needed)))
    return macs
