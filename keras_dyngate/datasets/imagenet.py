"""ImageNet 2012 as tensorflow-datasets prepares it.

    data = kd.datasets.imagenet2012()

Pictures in folders, as its archives unpack, are read by `image_folder`.
"""

import os
from typing import Any

from keras_dyngate._checks import positive_int
from keras_dyngate.datasets.augmentation import classification_views
from keras_dyngate.datasets.files import Record, split_of
from keras_dyngate.datasets.split import Augment, Data, Split
from keras_dyngate.datasets.tfds_source import random_access, text

ARCHIVES = (
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
    "https://image-net.org/download-images"
)


def imagenet2012(
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 224,
    validation: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> Data:
    """1,281,167 training pictures of 1,000 classes; the official validation is `test`.

    Training sees random parts of the pictures, mirrored half the time; judging is by
    the centre, 224 of 256 pixels.

    Args:
        data_dir: Of tensorflow-datasets; None: its own. The data must have been
            prepared there with `file_format="array_record"`.
        image_size: Side of the pictures a model is shown.
        validation: Training pictures held out for validation. Default a hundredth.
        seed: Of their choice.
        skip_unreadable: See `image_folder`.

    Raises:
        ImportError: If tensorflow-datasets is not installed.
        FileNotFoundError: If the data are not there.
    """
    positive_int("image_size", image_size)
    info, train, test = random_access("imagenet2012", data_dir, ["image"], ARCHIVES)
    prepare, augment = classification_views(image_size, shift=False)

    def split(source: Any, augment: Augment | None = None) -> Split:
        def fetch(index: int) -> tuple[Record, int]:
            found = source[index]
            return Record(text(found["file_name"]), found["image"]), int(found["label"])

        return split_of(len(source), fetch, skip_unreadable, None, prepare, augment)

    whole = split(train, augment)
    count = len(whole) // 100 if validation is None else validation
    rest, held = whole.hold_out(count, seed)
    return Data(
        "ImageNet 2012",
        tuple(info.features["label"].names),
        rest,
        held,
        split(test),
        (image_size, image_size, 3),
    )
