"""Two levels of labels: coarse ones for thin sub-networks, fine ones for wide ones.

taxonomy = HierarchicalTaxonomy([0, 0, 1, 1], coarse_names=["animal", "vehicle"])
taxonomy = HierarchicalTaxonomy.from_labels(fine, coarse)      # from a dataset
taxonomy = HierarchicalTaxonomy.cifar100()
taxonomy.coarse_of(fine_labels)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dyngate._registration import serializable


@serializable
class HierarchicalTaxonomy:
    """A map from fine classes to coarse ones.

    Args:
        coarse_of_fine: For each fine class the index of its coarse class; every coarse
            class from 0 to the largest must have a fine one.
        fine_names, coarse_names: Of the classes; None: no names.

    Attributes:
        fine_classes, coarse_classes: How many there are.

    Raises:
        ValueError: For a map that is no list of class indices, misses coarse classes, or
            names that do not fit.

    References:
        The task is that of the vertical-slicing paper; what is measured of it is a
        design of this library.

    Example:
        ```python
        taxonomy = kd.HierarchicalTaxonomy([0, 0, 1, 1], ["cat", "dog", "car", "bus"])
        print(taxonomy.coarse_of([3, 0]))  # [1 0]
        model = kd.sliced_resnet(
            blocks=1, width=16, subnetworks=2, taxonomy=taxonomy, coarse_heads=1
        )
        ```
    """

    def __init__(
        self,
        coarse_of_fine: Sequence[int],
        fine_names: Sequence[str] | None = None,
        coarse_names: Sequence[str] | None = None,
    ) -> None:
        found = np.asarray(coarse_of_fine)
        if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
            raise ValueError(
                "`coarse_of_fine` must be one class index per fine class. "
                f"Received: coarse_of_fine={coarse_of_fine!r}"
            )
        missing = sorted(set(range(found.max() + 1)) - set(found.tolist()))
        if missing or found.min() < 0:
            raise ValueError(
                "`coarse_of_fine` must name every coarse class from 0 to the largest. "
                f"Received: a map to {sorted(set(found.tolist()))}, without {missing}"
            )
        self._coarse_of_fine = found.astype("int32")
        self.fine_classes = len(found)
        self.coarse_classes = int(found.max()) + 1
        self.fine_names = _names("fine_names", fine_names, self.fine_classes)
        self.coarse_names = _names("coarse_names", coarse_names, self.coarse_classes)

    @classmethod
    def from_labels(
        cls,
        fine: Any,
        coarse: Any,
        fine_names: Sequence[str] | None = None,
        coarse_names: Sequence[str] | None = None,
    ) -> "HierarchicalTaxonomy":
        """Read the map from the two labels of the same samples.

        Args:
            fine, coarse: Class indices `[N]` or `[N, 1]`, for instance
                `keras.datasets.cifar100.load_data(label_mode=...)` of both modes.
            fine_names, coarse_names: As in the constructor.

        Raises:
            ValueError: If the labels contradict each other, or a fine class is missing.
        """
        fine, coarse = np.ravel(fine), np.ravel(coarse)
        if len(fine) != len(coarse) or not len(fine):
            raise ValueError(
                "`fine` and `coarse` must be labels of the same samples. "
                f"Received: {len(fine)} and {len(coarse)} labels"
            )
        pairs = np.unique(np.stack([fine, coarse], axis=1), axis=0)
        seen, counts = np.unique(pairs[:, 0], return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                "A fine class must have one coarse class. Received: several for the "
                f"fine classes {seen[counts > 1].tolist()}"
            )
        if seen.dtype.kind in "iu" and seen.min() < 0:
            raise ValueError(
                "`fine` must hold class indices from 0. Received: labels from "
                f"{seen.min()}"
            )
        if missing := sorted(set(range(int(seen.max()) + 1)) - set(seen.tolist())):
            raise ValueError(
                "`fine` must hold every class from 0 to the largest. "
                f"Received: labels without {missing}"
            )
        return cls(pairs[:, 1].tolist(), fine_names, coarse_names)

    @classmethod
    def cifar100(cls) -> "HierarchicalTaxonomy":
        """The 20 and 100 classes of CIFAR-100, in the order of `keras.datasets`."""
        members = {name: group.split() for name, group in _CIFAR100.items()}
        fine = sorted(name for group in members.values() for name in group)
        coarse = {name: i for i, group in enumerate(members.values()) for name in group}
        return cls([coarse[name] for name in fine], fine, list(members))

    @property
    def coarse_of_fine(self) -> np.ndarray:
        """int32 `[fine_classes]`, a copy."""
        return self._coarse_of_fine.copy()

    def matrix(self) -> np.ndarray:
        """float32 `[fine_classes, coarse_classes]`: 1 where fine is of coarse."""
        return np.eye(self.coarse_classes, dtype="float32")[self._coarse_of_fine]

    def coarse_of(self, labels: Any) -> np.ndarray:
        """Coarse labels of fine ones, any shape.

        Raises:
            ValueError: For labels that are no fine class.
        """
        labels = np.asarray(labels)
        wrong = labels.dtype.kind not in "iu"
        if wrong or ((labels < 0) | (labels >= self.fine_classes)).any():
            raise ValueError(
                f"`labels` must be class indices from 0 to {self.fine_classes - 1}. "
                f"Received: dtype {labels.dtype}"
                + ("" if wrong else f" from {labels.min()} to {labels.max()}")
            )
        return self._coarse_of_fine[labels]

    def get_config(self) -> dict[str, Any]:
        return {
            "coarse_of_fine": self._coarse_of_fine.tolist(),
            "fine_names": self.fine_names,
            "coarse_names": self.coarse_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HierarchicalTaxonomy":
        return cls(**config)


def _names(name: str, names: Sequence[str] | None, count: int) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"`{name}` must be {count} names. Received: {names!r}")
    return list(names)


_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
