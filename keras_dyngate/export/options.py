"""What `export_tflite` takes for one kind of net only.

kd.export_tflite(gated, "net.tflite", options=kd.GateOptions(group_size=8))
kd.export_tflite(sliced, "net.tflite", options=kd.AnytimeOptions(subnetworks=[1, 4]))
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_dyngate._checks import boolean, one_of
from keras_dyngate._deprecation import is_now


@dataclasses.dataclass(frozen=True)
class GateOptions:
    """For classifiers and segmentation nets, gated or not, with exits or without.

    Attributes:
        group_size: Channels that run together. None (default): the gates' own groups, or
            as many of them as make 16 channels. Per-channel scores still multiply inside.
        forcible: Whether the file has one signature more, whose decisions the caller
            makes: `answer_under(image, decisions)`, with early exits also
            `thresholds`; `decisions` is int32 `[units]`, 1 open, 0 shut, -1 as the net
            decides, in the order of the metadata's "decisions". It is for measuring on
            a device what each decision costs: see `measure_latency`. Default False.
        ungated: Whether the net is exported as it was before its gates and exits:
            everything open, no controller, no branch. Default False.
        first_net: How an int8 file holds a first net: "dynamic" (default), with 8-bit
            weights and sums in float32, the fastest form on x86; or "int8", with 8-bit
            features as well, as the rest, which is what takes fewest instructions on
            ARM. Other files, and nets without a first net, are not affected.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        model = keras.Sequential([keras.Input((8, 8, 4)), block, keras.layers.Flatten()])
        options = kd.GateOptions(group_size=2)
        print(kd.export_tflite(model, "net.tflite", options=options))
        ```
    """

    group_size: int | None = None
    forcible: bool = False
    ungated: bool = False
    first_net: str = "dynamic"

    def __post_init__(self) -> None:
        boolean("forcible", self.forcible)
        boolean("ungated", self.ungated)
        one_of("first_net", self.first_net, ("dynamic", "int8"))
        if self.forcible and self.ungated:
            raise ValueError(
                "`forcible` is for gates, and an `ungated` net has none. Received: both"
            )


@dataclasses.dataclass(frozen=True)
class AnytimeOptions:
    """For anytime nets.

    Attributes:
        subnetworks: Those that get a signature `classify_k<k>`. None (default): the
            largest of a sliced net, all of an I-ResNeXt.
        share_weights: Of an I-ResNeXt with several `subnetworks`: True stores the
            convolutions once; False a folded copy for each, which is faster. None
            (default): what is smaller. The report says what each costs.

    Example:
        ```python
        model = kd.sliced_resnet(
            blocks=1, width=16, subnetworks=2, input_shape=(8, 8, 3), classes=2
        )
        options = kd.AnytimeOptions(subnetworks=[1, 2])
        print(kd.export_tflite(model, "net.tflite", options=options))
        ```
    """

    subnetworks: Sequence[int] | None = None
    share_weights: bool | None = None


def from_keywords(options: Any, **given: Any) -> Any:
    """Options from the arguments that `export_tflite` of version 0.1.0 took instead.

    Args:
        options: The new form, or None.
        **given: The old one; None where nothing was given.

    Raises:
        ValueError: If both forms are given, or arguments of several kinds of nets.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return options
    kinds = [
        kind
        for kind in (GateOptions, AnytimeOptions)
        if set(given) <= {field.name for field in dataclasses.fields(kind)}
    ]
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    if options is not None or not kinds:
        raise ValueError(
            "`options` must be given alone: the arguments that it replaces are for one "
            f"kind of net each. Received: {words}, options={options!r}"
        )
    old = " and ".join(f"`{name}`" for name in given)
    is_now(f"{old} of `export_tflite`", f"`options=kd.{kinds[0].__name__}({words})`")
    return kinds[0](**given)
