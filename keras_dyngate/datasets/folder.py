"""Folders of pictures, one folder per class.

    data = kd.datasets.image_folder("imagenet", image_size=224)
    data = kd.datasets.image_folder("tiny-imagenet-200", image_size=64)

Layouts: `train/<class>/*.jpg` and `val/<class>/*.jpg`, as ImageNet is kept; `<class>/*.jpg`
alone; and Tiny ImageNet's, `train/<class>/images/` and `val/val_annotations.txt`.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_dyngate._checks import one_of, positive_int
from keras_dyngate._files import read_lines
from keras_dyngate.datasets.augmentation import classification_views
from keras_dyngate.datasets.files import (
    existing_folder,
    folders,
    missing,
    split_of,
)
from keras_dyngate.datasets.split import Data, Split
from keras_dyngate.pictures import find_pictures

IMAGES = "images"  # where Tiny ImageNet keeps the pictures of a class
ANNOTATIONS = "val_annotations.txt"
EXPECTED = (
    "a folder that holds train/<class>/*.jpg and val/<class>/*.jpg (ImageNet, from "
    "https://image-net.org; Tiny ImageNet, from https://cs231n.stanford.edu, as it is "
    "unpacked) or <class>/*.jpg"
)
Found = tuple[list[str], list[int]]


def image_folder(
    data_dir: str | os.PathLike[str],
    image_size: int = 224,
    validation: int | None = None,
    seed: int = 0,
    augmentation: str = "auto",
    skip_unreadable: bool = False,
    name: str | None = None,
) -> Data:
    """Pictures of any size, JPEG, PNG, BMP, WebP or GIF (its first), as square ones.

    They are read by `keras_dyngate.pictures`: upright, in colours, hidden files left out.

    `test` is the folder `val`, `validation` or `test`, whichever is there, and
    `validation` is held out from `train`; where `test` stands beside one of the others,
    all three are used as they are. A folder without `train` is divided into three. What
    is held out has about the same share of every class.

    Args:
        data_dir: The folder. Classes are its subfolders, or those of `train`, by name.
        image_size: Side of the pictures a model is shown.
        validation: Pictures held out, for `test` as many again where there is none.
            Default a tenth. Of no effect where all three are there.
        seed: Of their choice.
        augmentation: `"crop"`: random parts with .08 to 1 of the area, and judging by
            the centre. `"shift"`: shifts by an eighth, and judging by the whole width
            or height. `"auto"`: shifts if the first picture has `image_size` already.
            All mirror.
        skip_unreadable: Whether a file that cannot be read is passed over, and another
            one is trained on in its place. Otherwise it is an error.
        name: Of the data. Default the folder's.

    Raises:
        FileNotFoundError: If folders or pictures are missing.
        ImportError: If Pillow is not installed.
        ValueError: If a test picture has a class that no training picture has, pictures
            lie deeper than their class's folder and its subfolder `images`, or
            `validation` leaves nothing to train on.
    """
    positive_int("image_size", image_size)
    if validation is not None and not isinstance(validation, int):
        raise ValueError(
            "`validation` must be how many pictures to hold out. "
            f"Received: validation={validation!r}"
        )
    one_of("augmentation", augmentation, ("auto", "crop", "shift"))
    path = existing_folder(data_dir, EXPECTED)
    whole_only = not (path / "train").is_dir()
    train_dir = path if whole_only else path / "train"
    classes = folders(train_dir)
    found = _labelled(train_dir, classes)
    if len(classes) == 1 and found[0]:
        raise ValueError(
            "`data_dir` must hold two classes or more, a folder of pictures each. "
            f"Received: {os.fspath(data_dir)!r} with the class {classes[0]!r} alone"
        )
    if len(classes) < 2:
        raise missing(data_dir, EXPECTED)

    whole = _split(found, skip_unreadable)
    shift = augmentation == "shift"
    if augmentation == "auto":
        shift = _first_size(whole) == (image_size, image_size)
    prepare, augment = classification_views(image_size, shift)
    whole = dataclasses.replace(whole, prepare=prepare, augment=augment)
    count = len(whole) // 10 if validation is None else validation

    given = [] if whole_only else _given(path, classes)
    parts = [
        dataclasses.replace(_split(part, skip_unreadable), prepare=prepare)
        for part in given
    ]
    if not whole_only and not parts:
        raise missing(data_dir, EXPECTED)
    labels = np.array(found[1])
    rest = np.arange(len(labels))
    while len(parts) < 2:
        held, kept = _stratified(labels[rest], count, seed)
        parts.insert(0, dataclasses.replace(whole, augment=None).subset(rest[held]))
        rest = rest[kept]
    return Data(
        name or path.resolve().name,
        tuple(classes),
        whole.subset(rest),
        parts[0],
        parts[1],
        (image_size, image_size, 3),
    )


def _labelled(folder: Path, classes: Sequence[str]) -> Found:
    """Every picture in the folders of these classes, and its class."""
    paths: list[str] = []
    labels: list[int] = []
    known = {name: index for index, name in enumerate(classes)}
    for name in folders(folder):
        if name not in known:
            raise ValueError(
                f"The classes in {str(folder)!r} must be among those of the training "
                f"pictures. Received: {name!r}"
            )
        place = folder / name
        found = find_pictures(place) + find_pictures(place / IMAGES)
        for other in folders(place):
            if other != IMAGES and find_pictures(place / other, subfolders=True):
                raise ValueError(
                    "Pictures of a class must lie in its folder or in its subfolder "
                    f"{IMAGES!r}. Received: {str(place / other)!r} with others"
                )
        if not found:
            raise FileNotFoundError(f"There is no picture of a class in {str(place)!r}")
        paths += found
        labels += [known[name]] * len(found)
    return paths, labels


def _annotated(folder: Path, classes: Sequence[str]) -> Found:
    """What Tiny ImageNet's list says: a picture's name and its class on each line."""
    lines = [line.split("\t") for line in read_lines(folder / ANNOTATIONS)]
    known = {name: index for index, name in enumerate(classes)}
    unknown = [line for line in lines if len(line) < 2 or line[1] not in known]
    if unknown or not lines:
        raise ValueError(
            f"Lines of {str(folder / ANNOTATIONS)!r} must name a picture and a class of "
            f"the training pictures. Received: {unknown[:1]}"
        )
    paths = [str(folder / IMAGES / line[0]) for line in lines]
    return paths, [known[line[1]] for line in lines]


def _given(path: Path, classes: Sequence[str]) -> list[Found]:
    """The pictures to judge by: for test, or for validation and test."""
    found = []
    validation = "val" if (path / "val").is_dir() else "validation"
    for folder in (path / validation, path / "test"):
        if (folder / ANNOTATIONS).is_file():
            found.append(_annotated(folder, classes))
        elif set(folders(folder)) - {IMAGES}:  # Tiny ImageNet's test has no labels
            found.append(_labelled(folder, classes))
    return found


def _split(found: Found, skip: bool) -> Split:
    paths, labels = found
    return split_of(len(paths), lambda i: (Path(paths[i]), labels[i]), skip)


def _first_size(split: Split) -> tuple[int, ...]:
    for index in range(len(split)):
        size = tuple(split.load(index)[0].shape[:2])
        if any(size):
            return size
    raise FileNotFoundError(
        f"None of {len(split)} pictures can be read, such as {split.unreadable[0]!r}"
    )


def _stratified(
    labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `count` pictures chosen by `seed`, and of the rest.

    Every n-th of the pictures, shuffled and put in order of their classes, is chosen:
    of each class its share, rounded up or down.
    """
    if not 0 < count < len(labels):
        raise ValueError(
            f"`validation` must leave pictures to train on. Received: {count} to hold "
            f"out of {len(labels)}"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    held = np.sort(order[(2 * np.arange(count) + 1) * len(labels) // (2 * count)])
    return held, np.setdiff1d(np.arange(len(labels)), held)
