"""Single labelled samples from what Keras' `evaluate` takes: arrays or a dataset."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_dyngate._image_range import RangeWatch
from keras_dyngate.runtime.labels import LabelSpec
from keras_dyngate.runtime.tensors import TensorSpec


class Sample(NamedTuple):
    """Inputs by name without a batch axis, the label, and what it weighs."""

    inputs: dict[str, np.ndarray]
    label: np.ndarray
    weight: np.ndarray


def labelled_samples(
    dataset: Any,
    y: Any,
    sample_weight: Any,
    *,
    specs: Mapping[str, TensorSpec],
    labels: LabelSpec,
    watch: RangeWatch | None = None,
) -> Iterator[Sample]:
    """Go through a dataset sample by sample.

    Args:
        dataset: With `y`: inputs. Without: a tuple (inputs, labels) or (inputs, labels,
            weights) of arrays, or an iterable of such tuples, single or batched. Inputs
            are an array, or arrays by name.
        y: Labels, or None.
        sample_weight: One number per sample, or per pixel of a label map; None: all 1.
        specs: Of the file's inputs that samples give.
        labels: Of the file.
        watch: Is shown all images.

    Raises:
        ValueError: Something does not suit the file. Of a batch all is checked before
            its first sample is given.
    """
    for given in _tuples(dataset, y, sample_weight):
        inputs, single = _batch(given[0], specs)
        (count,) = {len(array) for array in inputs.values()}
        truth = np.asarray(given[1])
        truth = labels.indices(truth[np.newaxis] if single else truth, count)
        weight = given[2] if len(given) == 3 else None
        weights = _weights(weight, count, labels, single)
        for index in range(count):
            sample = {name: array[index] for name, array in inputs.items()}
            if watch is not None:
                for name, array in sample.items():
                    if len(specs[name].shape) == 4:
                        watch.look(array)
            yield Sample(sample, truth[index], weights[index])


def _tuples(dataset: Any, y: Any, sample_weight: Any) -> Iterable[Any]:
    if y is not None:
        return [(dataset, y, sample_weight)]
    if sample_weight is not None:
        raise ValueError(
            "`sample_weight` needs `y`; a dataset gives weights as the third part of its "
            "tuples. Received: y=None"
        )
    if isinstance(dataset, tuple) and dataset and _is_array(dataset[0]):
        dataset = [dataset]
    if not isinstance(dataset, Iterable) or isinstance(dataset, (str, Mapping)):
        raise ValueError(
            "`x` must be images with `y`, a tuple (images, labels) or an iterable "
            f"of pairs (image, label). Received: {type(dataset).__name__} without `y`"
        )
    return map(_checked, dataset)


def _is_array(part: Any) -> bool:
    if isinstance(part, Mapping):
        return all(_is_array(value) for value in part.values())
    return hasattr(part, "shape")


def _checked(item: Any) -> Any:
    if isinstance(item, (tuple, list)) and len(item) in (2, 3):
        return item
    raise ValueError(
        "`x` must consist of pairs (image, label), or with a weight as the third. "
        f"Received: {type(item).__name__}"
        + (f" of length {len(item)}" if hasattr(item, "__len__") else "")
    )


def _batch(
    given: Any, specs: Mapping[str, TensorSpec]
) -> tuple[dict[str, np.ndarray], bool]:
    """Inputs by name with a batch axis, and whether that had to be made."""
    if not isinstance(given, Mapping):
        if len(specs) != 1:
            raise ValueError(
                f"`x` must give the inputs {sorted(specs)} by name, in a dict, or "
                "all but one of them as a keyword argument. "
                f"Received: {type(given).__name__}"
            )
        given = dict.fromkeys(specs, given)
    if set(given) != set(specs):
        raise ValueError(
            f"`x` must give the inputs {sorted(specs)}. Received: {sorted(given)}"
        )
    found = {name: _with_batch_axis(name, given[name], specs[name]) for name in specs}
    sizes = {name: (len(array), single) for name, (array, single) in found.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            "`x` must give equally many of each input. Received: "
            f"{ {name: size for name, (size, _) in sizes.items()} }"
        )
    _, single = next(iter(found.values()))
    return {name: array for name, (array, _) in found.items()}, single


def _with_batch_axis(
    name: str, value: Any, spec: TensorSpec
) -> tuple[np.ndarray, bool]:
    array = np.asarray(value)
    forms = [array]
    if spec.shape[-1:] == (1,):  # as Keras does, grey images may lack their last axis
        forms.append(array[..., np.newaxis])
    for form in forms:
        if form.ndim and spec.accepts((1, *form.shape[1:])):
            return form, False
        if spec.accepts((1, *form.shape)):
            return form[np.newaxis], True
    wanted = spec.shape[1:]
    grey = (wanted[:-1], (*wanted[:-1], 1))
    hint = (
        "; grey pictures need 3 equal channels"
        if wanted[-1:] == (3,) and (array.shape[1:] in grey or array.shape in grey)
        else ""
    )
    raise ValueError(
        f"`x` must give input `{name}` the shape {wanted}, one by one or in "
        f"batches{hint}. Received: shape={array.shape}"
    )


def _weights(given: Any, count: int, labels: LabelSpec, single: bool) -> np.ndarray:
    """`[count]`, or `[count, *labels.shape]`."""
    if given is None:
        return np.ones(count)
    weights = np.asarray(given, np.float64)
    weights = weights[np.newaxis] if single else weights
    if weights.size == count:
        weights = weights.reshape(count)
    shapes = {(count,), (count, *labels.shape)}
    if (
        weights.shape not in shapes
        or not np.isfinite(weights).all()
        or (weights < 0).any()
    ):
        raise ValueError(
            "`sample_weight` must be one number from 0 per "
            f"{'sample or pixel' if labels.shape else 'sample'}. Received: shape="
            f"{weights.shape} for {count} sample(s)"
            + (
                f", values from {weights.min()} to {weights.max()}"
                if weights.size
                else ""
            )
        )
    return weights
