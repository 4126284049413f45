"""Cityscapes: street scenes with 19 classes, from its folders or tensorflow-datasets.

data = kd.datasets.cityscapes("cityscapes", crop_size=(384, 384))
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate._checks import one_of
from keras_dyngate.datasets.files import (
    Record,
    existing_folder,
    folders,
    missing,
    split_of,
)
from keras_dyngate.datasets.label_maps import IGNORE, segmentation_views, side_pair
from keras_dyngate.datasets.split import Augment, Data, Split
from keras_dyngate.datasets.tfds_source import random_access, text
from keras_dyngate.pictures import Source, find_pictures

CLASSES = {  # name: its id in the official label maps
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
SITE = "https://www.cityscapes-dataset.com"
ARCHIVES = f"leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from {SITE}"
Fetch = Callable[[int], tuple[Source, Source]]
EXPECTED = (
    "a folder that holds leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
    f"gtFine/{{train,val}}/<city>/*_gtFine_labelIds.png, as unpacked from {ARCHIVES}"
)


def cityscapes(
    data_dir: str | os.PathLike[str] | None = None,
    crop_size: tuple[int, int] | None = None,
    image_size: tuple[int, int] = (512, 1024),
    validation: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    source: str = "folder",
) -> Data:
    """2,975 training scenes; the 500 of the official validation are `test`.

    Label maps hold classes 0 to 18, and 255 where there is none. See
    `segmentation_views` for how they are shown.

    Args:
        data_dir: The folder, or tensorflow-datasets' (None: its own).
        crop_size: (height, width) of training pictures; None: `image_size`.
        image_size: (height, width) for judging, and what training pictures are scaled
            from. Default half the scenes' own (1024, 2048), by which others are judged.
        validation: Most training scenes to hold out. Default a tenth. From folders,
            whole cities are held out, unless all have more; otherwise single scenes.
        seed: Of their choice.
        skip_unreadable: Whether a scene that cannot be read is passed over, and another
            one is trained on in its place. Otherwise it is an error.
        source: `"folder"`, or `"tfds"`: tensorflow-datasets'
            `cityscapes/semantic_segmentation`.

    Raises:
        FileNotFoundError: If the folder, a scene's label map or the data are missing.
        ImportError: If `source` is `"tfds"` and tensorflow-datasets is not installed.
        ValueError: If `source` is another, or `validation` leaves nothing to train on.
    """
    one_of("source", source, ("folder", "tfds"))
    sides = side_pair("image_size", image_size)
    crop = sides if crop_size is None else side_pair("crop_size", crop_size)
    prepare, augment = segmentation_views(sides, crop)

    def split(size: int, fetch: Fetch, augment: Augment | None = None) -> Split:
        return split_of(size, fetch, skip_unreadable, train_ids(), prepare, augment)

    if source == "folder":
        path = existing_folder(data_dir, EXPECTED)
        scenes, judged = _scenes(path, "train"), _scenes(path, "val")
        whole = split(len(scenes), scenes.__getitem__, augment)
        test = split(len(judged), judged.__getitem__)
        names = [image.parent.name for image, _ in scenes]
        _, cities = np.unique(names, return_inverse=True)
    else:
        features = ("image_left", "segmentation_label")
        name = "cityscapes/semantic_segmentation"
        _, train, official = random_access(name, data_dir, features, ARCHIVES)
        whole = split(len(train), _records(train), augment)
        test = split(len(official), _records(official))
        cities = np.zeros(len(whole), "int64")
    count = len(whole) // 10 if validation is None else validation
    rest, held = whole.hold_out(count, seed)
    chosen = np.isin(cities, _whole_cities(cities, count, seed))
    if chosen.any():
        rest = whole.subset(np.flatnonzero(~chosen))
        held = dataclasses.replace(whole, augment=None).subset(np.flatnonzero(chosen))
    return Data(
        "Cityscapes",
        tuple(CLASSES),
        rest,
        held,
        test,
        (*sides, 3),
        IGNORE,
    )


def train_ids() -> np.ndarray:
    """Class of each of the 256 values of an official label map; -1 is kept as 255."""
    table = np.full(256, IGNORE, "uint8")
    table[list(CLASSES.values())] = np.arange(len(CLASSES))
    return table


def _whole_cities(cities: np.ndarray, count: int, seed: int) -> list[int]:
    """Cities in random order, each taken if it still fits into `count` scenes."""
    sizes = np.bincount(cities)
    taken: list[int] = []
    for city in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[[*taken, city]].sum() <= count:
            taken.append(city)
    return taken


def _scenes(path: Path, part: str) -> list[tuple[Path, Path]]:
    """Pictures and label maps, by city and name."""
    scenes = []
    for city in folders(path / "leftImg8bit" / part):
        for image in map(Path, find_pictures(path / "leftImg8bit" / part / city)):
            title = image.name.removesuffix("_leftImg8bit.png")
            labels = path / "gtFine" / part / city / f"{title}_gtFine_labelIds.png"
            if not labels.is_file():
                raise FileNotFoundError(
                    f"There is no label map of {str(image)!r}: {str(labels)!r} is "
                    "missing. It comes with gtFine_trainvaltest.zip from " + SITE
                )
            scenes.append((image, labels))
    if not scenes:
        raise missing(path, EXPECTED)
    return scenes


def _records(found: Any) -> Fetch:
    """From an index to a picture and label map among tensorflow-datasets' records."""

    def fetch(index: int) -> tuple[Record, Record]:
        scene = found[index]
        name = text(scene["image_id"])
        return (
            Record(name, scene["image_left"]),
            Record(f"label map of {name}", scene["segmentation_label"]),
        )

    return fetch
