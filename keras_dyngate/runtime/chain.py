"""Signatures called one after another, each fed with what earlier ones handed on.

The steps of an anytime net and the stages of a net with early exits take, beside or
instead of the image, tensors that earlier signatures put out under the same names. All of
that is handed from call to call, so threads may share a model.

    for name, inputs, outputs in chain(model, {"image": image}):             # all of them
        ...
    *_, (_, inputs, outputs) = chain(model, {"image": image}, "step_3")     # up to one
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from keras_dyngate._checks import one_of
from keras_dyngate._image_range import RangeWatch
from keras_dyngate.runtime.litert_model import LiteRTModel, TensorSpec

IMAGE = "image"  # as `export_tflite` calls it


def chain(
    model: LiteRTModel, given: Mapping[str, Any], signature: str | None = None
) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """Run signatures in order; what `given` lacks comes from the outputs before.

    Args:
        model: A file.
        given: The image (or another net's inputs), and what else signatures take, by
            name. `thresholds` are the file's own if not given.
        signature: The last one; only those that it depends on are run. None: run all.

    Yields:
        A signature's name, its inputs and its outputs (`executed_macs` in thousands of
        MACs, as the file has it).

    Raises:
        ValueError: The file has no such signature, or an input is missing or does not
            suit the file.
    """
    known = dict(given)
    if "thresholds" in model.metadata:
        known.setdefault("thresholds", np.float32(model.metadata["thresholds"]))
    for name in _names(model, set(known), signature):
        wanted = model.signatures[name].inputs
        missing = sorted(set(wanted) - set(known))
        if missing:
            raise ValueError(
                f"`inputs` must give {missing}, which signature {name!r} of the file "
                f"takes. Received: {sorted(given)}"
            )
        inputs = {key: known[key] for key in wanted}
        outputs = model.run(name, **inputs)
        known |= {key: value for key, value in outputs.items() if key not in given}
        yield name, inputs, outputs


def image_input(
    model: LiteRTModel, signature: str, given: Collection[str] = ()
) -> tuple[str, TensorSpec]:
    """Name and shape of the image, or other input, that `chain` needs for a signature.

    Args:
        model: A file.
        signature: One of its signatures.
        given: Names of inputs that are no images.

    Raises:
        ValueError: The file has no such signature, or several inputs are needed of which
            none is called `image`.
    """
    one_of("signature", signature, tuple(sorted(model.signatures)))
    known, roots = {*given}, dict[str, TensorSpec]()
    if "thresholds" in model.metadata:
        known.add("thresholds")
    for name in _names(model, known, signature):
        entry = model.signatures[name]
        roots |= {key: spec for key, spec in entry.inputs.items() if key not in known}
        known |= set(entry.outputs)
    names = [IMAGE] if IMAGE in roots else list(roots)
    if len(names) != 1:
        raise ValueError(
            f"`signature` must have one image input. Received: signature={signature!r} "
            f"with the inputs {sorted(roots)}"
        )
    return names[0], roots[names[0]]


def feeds(
    model: LiteRTModel, samples: Any, given: Mapping[str, Any], signature: str | None
) -> list[dict[str, Any]]:
    """What `chain` is to be given for each of some samples.

    Args:
        model: A file.
        samples: Of a file with one input: `[N, ...]`. With several: a dict of such
            arrays by name.
        given: What else signatures take, the same for all samples.
        signature: As for `chain`.

    Raises:
        ValueError: There are not equally many of each input, or `samples` is no dict
            and there are several inputs.

    Warns:
        UserWarning: All images are from 0 to 1 where the file takes 0 to 255.
    """
    if isinstance(samples, Mapping):
        counts = {name: len(values) for name, values in samples.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"The inputs must be equally many by name. Received: {counts}"
            )
        rows = zip(*samples.values(), strict=True)
        return [{**dict(zip(samples, row, strict=True)), **given} for row in rows]
    first = signature or _names(model, set(), None)[0]
    name, spec = image_input(model, first, given)
    found = [{name: sample, **given} for sample in samples]
    if model.takes_255 and len(spec.shape) == 4:
        watch = RangeWatch()
        for each in found:
            watch.look(np.asarray(each[name]))
        watch.warn("images")
    return found


def _names(model: LiteRTModel, known: set[str], last: str | None) -> list[str]:
    """Signatures in the order that they can be called in: all, or those to `last`."""
    if last is None:
        return list(model.table)
    one_of("signature", last, tuple(sorted(model.signatures)))
    needed, missing = [last], set(model.signatures[last].inputs) - known
    name = model.table[last].follows
    while name is not None:
        entry = model.signatures[name]
        if missing & set(entry.outputs):
            needed.append(name)
            missing -= set(entry.outputs)
            missing |= set(entry.inputs) - known
        name = model.table[name].follows
    return needed[::-1]
