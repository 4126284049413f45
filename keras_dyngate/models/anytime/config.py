"""What an anytime net is made from, checked once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_dyngate._checks import boolean, one_of, positive_int, whole_parts
from keras_dyngate.layers.sliced_conv2d import EXECUTIONS
from keras_dyngate.losses.anytime_loss import check_levels
from keras_dyngate.models.parts import IMAGENET_MEAN, IMAGENET_STD, check_arguments
from keras_dyngate.taxonomy import HierarchicalTaxonomy

FAMILIES = ("inclusive_resnext", "sliced_resnext", "sliced_resnet")
HEADS = ("private", "shared")
STAGES = {"cifar": 3, "imagenet": 4}


@dataclasses.dataclass(frozen=True)
class AnytimeConfig:
    """Arguments of `inclusive_resnext`, `sliced_resnext` and `sliced_resnet`.

    Attributes:
        family: One of `FAMILIES`.
        blocks: Of every stage; a number stands for all stages.
        branch_width, cardinality: None for plain blocks.
        quantized: Whether it computes as its int8 file will; `quantize_aware` sets it.

    The others are as the constructors say.

    Raises:
        ValueError: For arguments that do not go together.
    """

    family: str
    blocks: Any
    width: int
    subnetworks: int
    branch_width: int | None = None
    cardinality: int | None = None
    stem: str = "cifar"
    input_shape: Sequence[int | None] | None = None
    classes: int | None = None
    classifier_activation: Any = "softmax"
    heads: str = "private"
    execution: str = "masked"
    taxonomy: HierarchicalTaxonomy | None = None
    coarse_heads: int = 0
    include_preprocessing: bool = True
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    quantized: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        one_of("family", self.family, FAMILIES)
        for name in ("width", "subnetworks"):
            positive_int(name, getattr(self, name))
        taxonomy = check_levels(self.taxonomy, self.coarse_heads, self.subnetworks)
        put("taxonomy", taxonomy)
        classes = self.classes
        if classes is None and taxonomy is not None:
            classes = taxonomy.fine_classes
        shape, classes = check_arguments(self.stem, self.input_shape, None, classes)
        put("input_shape", shape)
        put("classes", classes)
        if taxonomy is not None and taxonomy.fine_classes != classes:
            raise ValueError(
                f"`taxonomy` must have the {classes} classes of the net. Received: one "
                f"of {taxonomy.fine_classes} fine classes"
            )
        stages = STAGES[self.stem]
        blocks = [self.blocks] * stages if isinstance(self.blocks, int) else self.blocks
        if not isinstance(blocks, (list, tuple)) or len(blocks) != stages:
            raise ValueError(
                f"`blocks` must be a number, or one per stage ({stages}). "
                f"Received: blocks={self.blocks!r}"
            )
        put("blocks", tuple(positive_int("blocks", n) for n in blocks))
        one_of("heads", self.heads, HEADS)
        one_of("execution", self.execution, EXECUTIONS)
        if boolean("quantized", self.quantized) and self.family == "inclusive_resnext":
            raise ValueError(
                "`quantized` is for sliced nets: an I-ResNeXt's file has its kernels in "
                "pieces, whose sums have ranges of their own. Received: quantized=True"
            )
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            if self.include_preprocessing and len(values) != self.channels:
                raise ValueError(
                    f"`{name}` must have a value for each of the {self.channels} "
                    f"channels. Received: {name}={values}"
                )
            put(name, values)
        self._check_slices()

    def _check_slices(self) -> None:
        """K divides what is cut."""
        cut = {}
        if self.family != "sliced_resnet":
            cut["cardinality"] = positive_int("cardinality", self.cardinality)
            positive_int("branch_width", self.branch_width)
        if self.family != "inclusive_resnext":
            cut["width"] = self.width
            cut["channels of the stem"] = self.stem_width
        if self.stem == "imagenet":
            whole_parts("width", self.width, "stem", 4)
        for name, value in cut.items():
            whole_parts(name, value, "subnetworks", self.subnetworks)

    @property
    def channels(self) -> int:
        """Of the images."""
        return int((self.input_shape or (None,))[-1] or 0)

    @property
    def stem_width(self) -> int:
        """Channels after the first convolution: a quarter before a pooled stem."""
        return self.width // 4 if self.stem == "imagenet" else self.width

    @property
    def levels(self) -> list[int]:
        """Classes that each head answers."""
        coarse = self.taxonomy.coarse_classes if self.taxonomy is not None else 0
        fine = self.subnetworks - self.coarse_heads
        return [coarse] * self.coarse_heads + [int(self.classes or 0)] * fine

    def to_dict(self) -> dict[str, Any]:
        """The arguments again, ready for JSON."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.taxonomy is not None:
            found["taxonomy"] = self.taxonomy.get_config()
        for name in ("blocks", "input_shape", "mean", "std"):
            found[name] = list(found[name])
        return found
