"""Pictures prepared by tensorflow-datasets, read one by one in any order."""

import os
from collections.abc import Sequence
from typing import Any

from keras_dyngate.datasets.files import missing


def random_access(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    encoded: Sequence[str],
    download: str,
) -> tuple[Any, Any, Any]:
    """What tensorflow-datasets knows of the data, and their parts train and validation.

    Args:
        name: Of the dataset in tensorflow-datasets.
        data_dir: Where it was prepared; None: tensorflow-datasets' own folder.
        encoded: Features that are given as the bytes of a picture's file.
        download: What to download, and from where.

    Returns:
        Its `tfds.core.DatasetInfo`, and two sequences of records.

    Raises:
        ImportError: If tensorflow-datasets is not installed.
        FileNotFoundError: If the data were not prepared for access in any order.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"Reading {name} needs the package tensorflow-datasets. Install it with "
            "`pip install keras_dyngate[datasets]`."
        ) from error
    builder = tfds.builder(name, data_dir=data_dir)
    try:
        train, validation = builder.as_data_source(
            split=["train", "validation"],
            decoders={feature: tfds.decode.SkipDecoding() for feature in encoded},
        )
    except NotImplementedError as error:
        place = os.fspath(data_dir or tfds.core.constants.DATA_DIR)
        raise missing(
            data_dir,
            f"where tensorflow-datasets keeps {name}: download {download} into "
            f"{place}/downloads/manual and run `tfds.builder({name!r}, "
            f"data_dir={place!r}, file_format='array_record').download_and_prepare()`",
        ) from error
    return builder.info, train, validation


def text(value: Any) -> str:
    """A text feature, which is read as bytes."""
    value = getattr(value, "item", lambda: value)()
    return value.decode() if isinstance(value, bytes) else str(value)
