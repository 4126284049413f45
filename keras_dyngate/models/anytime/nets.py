"""Constructors of anytime nets: I-ResNeXt and sliced residual nets.

model = inclusive_resnext()  # the paper's, for 32x32 images
model = sliced_resnext(width=256, subnetworks=4)
model = sliced_resnext50()  # for 224x224 images
"""

from collections.abc import Sequence
from typing import Any

from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.parts import IMAGENET_MEAN, IMAGENET_STD
from keras_dyngate.taxonomy import HierarchicalTaxonomy

# `locals()`, first thing in a function, are all of its arguments by their names.


def inclusive_resnext(
    *,
    blocks: int | Sequence[int] = 7,
    width: int = 64,
    branch_width: int = 4,
    cardinality: int = 8,
    subnetworks: int = 8,
    stem: str = "cifar",
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    name: str = "inclusive_resnext",
) -> AnytimeModel:
    """I-ResNeXt: sub-networks share prefixes of their convolutions.

    Stem and residual stream keep their full width, the grouped bottlenecks are cut. Every
    batch normalization and every head is private to a sub-network; nothing but the stem's
    output is of use to the next one.

    Args:
        blocks: Residual blocks of every stage; or a number per stage, of which there are
            three, or four with the stem "imagenet". Default 7.
        width: Channels between the blocks of the first stage; the others have twice as
            many as the one before. Default 64.
        branch_width: Channels per group of the first stage's 3x3 convolutions, doubled
            by each stage. Default 4.
        cardinality: Groups of the 3x3 convolutions. Default 8.
        subnetworks: K; divides the cardinality. Default 8.
        stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "cifar".
        input_shape: (height, width, channels) of the images.
        classes: Of the heads; with a taxonomy its fine classes.
        classifier_activation: Default "softmax"; None for logits.
        taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.
        coarse_heads: How many heads, from the first, answer its coarse labels. Default 0.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.
        name: Of the model.

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        Lee, Shin: Anytime neural prediction via slicing networks vertically, arXiv
        1807.02609; sizes of its official code.

    Example:
        ```python
        model = kd.inclusive_resnext(blocks=1, width=16, cardinality=4, subnetworks=2)
        scores = model.predict_at(1, np.zeros((2, 32, 32, 3)))  # of the thinnest
        ```
    """
    return AnytimeModel(family="inclusive_resnext", **locals())


def inclusive_resnext50(
    *,
    blocks: int | Sequence[int] = (3, 4, 6, 3),
    width: int = 256,
    branch_width: int = 4,
    cardinality: int = 32,
    subnetworks: int = 4,
    stem: str = "imagenet",
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    name: str = "inclusive_resnext50",
) -> AnytimeModel:
    """I-ResNeXt-50: sub-networks share prefixes of their convolutions.

    Stem and residual stream keep their full width, the grouped bottlenecks are cut. Every
    batch normalization and every head is private to a sub-network; nothing but the stem's
    output is of use to the next one.

    Args:
        blocks: Residual blocks of every stage; or a number per stage, of which there are
            three, or four with the stem "imagenet". Default (3, 4, 6, 3).
        width: Channels between the blocks of the first stage; the others have twice as
            many as the one before. Default 256.
        branch_width: Channels per group of the first stage's 3x3 convolutions, doubled
            by each stage. Default 4.
        cardinality: Groups of the 3x3 convolutions. Default 32.
        subnetworks: K; divides the cardinality. Default 4.
        stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "imagenet".
        input_shape: (height, width, channels) of the images.
        classes: Of the heads; with a taxonomy its fine classes.
        classifier_activation: Default "softmax"; None for logits.
        taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.
        coarse_heads: How many heads, from the first, answer its coarse labels. Default 0.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.
        name: Of the model.

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        Lee, Shin: Anytime neural prediction via slicing networks vertically, arXiv
        1807.02609; sizes of its official code.

    Example:
        ```python
        model = kd.inclusive_resnext50(
            blocks=1, width=32, cardinality=4, subnetworks=2, input_shape=(32, 32, 3)
        )
        print(kd.count_macs(model).per_subnetwork)
        ```
    """
    return AnytimeModel(family="inclusive_resnext", **locals())


def sliced_resnext(
    *,
    blocks: int | Sequence[int] = 7,
    width: int = 64,
    branch_width: int = 4,
    cardinality: int = 8,
    subnetworks: int = 8,
    stem: str = "cifar",
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    heads: str = "private",
    execution: str = "masked",
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    name: str = "sliced_resnext",
) -> AnytimeModel:
    """A sliced ResNeXt: every channel belongs to a slice.

    Slices read earlier slices only, so all sub-networks come from one pass, and the step
    to the next one computes its new slice alone.

    Args:
        blocks: Residual blocks of every stage; or a number per stage, of which there are
            three, or four with the stem "imagenet". Default 7.
        width: Channels between the blocks of the first stage; the others have twice as
            many as the one before. Default 64.
        branch_width: Channels per group of the first stage's 3x3 convolutions, doubled
            by each stage. Default 4.
        cardinality: Groups of the 3x3 convolutions. Default 8.
        subnetworks: K; divides the cardinality and the channels of the stem. Default 8.
        stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "cifar".
        input_shape: (height, width, channels) of the images.
        classes: Of the heads; with a taxonomy its fine classes.
        classifier_activation: Default "softmax"; None for logits.
        heads: "private" (default): a linear layer per sub-network on all its slices; or
            "shared": one, to whose scores each slice adds.
        execution: Of the dense form in Keras: "masked" (default), one convolution with
            zeros in its kernel; or "sliced", one per slice. They agree; see
            `SlicedConv2D`.
        taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.
        coarse_heads: How many heads, from the first, answer its coarse labels. Default 0.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.
        name: Of the model.

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        The sparsity pattern is that of Lee, Shin: Anytime neural prediction via slicing
        networks vertically, arXiv 1807.02609; the net is a design of this library.

    Example:
        ```python
        model = kd.sliced_resnext(blocks=1, width=16, cardinality=4, subnetworks=2)
        for k, logits in model.anytime(np.zeros((1, 32, 32, 3))):
            print(k, logits.shape)
        ```
    """
    return AnytimeModel(family="sliced_resnext", **locals())


def sliced_resnext50(
    *,
    blocks: int | Sequence[int] = (3, 4, 6, 3),
    width: int = 256,
    branch_width: int = 4,
    cardinality: int = 32,
    subnetworks: int = 4,
    stem: str = "imagenet",
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    heads: str = "private",
    execution: str = "masked",
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    name: str = "sliced_resnext50",
) -> AnytimeModel:
    """A sliced ResNeXt-50: every channel belongs to a slice.

    Slices read earlier slices only, so all sub-networks come from one pass, and the step
    to the next one computes its new slice alone.

    Args:
        blocks: Residual blocks of every stage; or a number per stage, of which there are
            three, or four with the stem "imagenet". Default (3, 4, 6, 3).
        width: Channels between the blocks of the first stage; the others have twice as
            many as the one before. Default 256.
        branch_width: Channels per group of the first stage's 3x3 convolutions, doubled
            by each stage. Default 4.
        cardinality: Groups of the 3x3 convolutions. Default 32.
        subnetworks: K; divides the cardinality and the channels of the stem. Default 4.
        stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "imagenet".
        input_shape: (height, width, channels) of the images.
        classes: Of the heads; with a taxonomy its fine classes.
        classifier_activation: Default "softmax"; None for logits.
        heads: "private" (default): a linear layer per sub-network on all its slices; or
            "shared": one, to whose scores each slice adds.
        execution: Of the dense form in Keras: "masked" (default), one convolution with
            zeros in its kernel; or "sliced", one per slice. They agree; see
            `SlicedConv2D`.
        taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.
        coarse_heads: How many heads, from the first, answer its coarse labels. Default 0.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.
        name: Of the model.

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        The sparsity pattern is that of Lee, Shin: Anytime neural prediction via slicing
        networks vertically, arXiv 1807.02609; the net is a design of this library.

    Example:
        ```python
        model = kd.sliced_resnext50(
            blocks=1, width=32, cardinality=4, subnetworks=2, input_shape=(32, 32, 3)
        )
        print(kd.count_macs(model).per_step)
        ```
    """
    return AnytimeModel(family="sliced_resnext", **locals())


def sliced_resnet(
    *,
    blocks: int | Sequence[int] = 2,
    width: int = 64,
    subnetworks: int = 4,
    stem: str = "cifar",
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    heads: str = "private",
    execution: str = "masked",
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    name: str = "sliced_resnet",
) -> AnytimeModel:
    """A sliced residual net of plain blocks: every channel is of a slice.

    Two 3x3 convolutions per block. Slices read earlier slices only, so all sub-networks
    come from one pass, and the step to the next one computes its new slice alone.

    Args:
        blocks: Residual blocks of every stage; or a number per stage, of which there are
            three, or four with the stem "imagenet". Default 2.
        width: Channels between the blocks of the first stage; the others have twice as
            many as the one before. Default 64.
        subnetworks: K; divides the channels of the stem. Default 4.
        stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "cifar".
        input_shape: (height, width, channels) of the images.
        classes: Of the heads; with a taxonomy its fine classes.
        classifier_activation: Default "softmax"; None for logits.
        heads: "private" (default): a linear layer per sub-network on all its slices; or
            "shared": one, to whose scores each slice adds.
        execution: Of the dense form in Keras: "masked" (default), one convolution with
            zeros in its kernel; or "sliced", one per slice. They agree; see
            `SlicedConv2D`.
        taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.
        coarse_heads: How many heads, from the first, answer its coarse labels. Default 0.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.
        name: Of the model.

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        The sparsity pattern is that of Lee, Shin: Anytime neural prediction via slicing
        networks vertically, arXiv 1807.02609; the net is a design of this library.

    Example:
        ```python
        model = kd.sliced_resnet(blocks=1, width=16, subnetworks=4)
        model.compile("sgd")  # the loss is an `AnytimeLoss`
        model.fit(np.zeros((4, 32, 32, 3)), np.array([0, 1, 2, 3]), verbose=0)
        scores = model.predict_at(2, np.zeros((1, 32, 32, 3)))
        ```
    """
    return AnytimeModel(family="sliced_resnet", **locals())
