"""scikit-learn's handwritten digits, real data that come with a package.

data = kd.datasets.digits()
"""

import numpy as np
import tensorflow as tf

from keras_dyngate.datasets.augmentation import shift_and_mirror
from keras_dyngate.datasets.split import Data, Split

TEST, VALIDATION = 397, 200


def digits(seed: int = 0) -> Data:
    """1,797 grey 8x8 digits, enlarged to 32x32 RGB: 1,200 / 200 / 397, stratified.

    Args:
        seed: Of the division into three parts.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "`digits` needs the package scikit-learn. Install it with "
            "`pip install keras_dyngate[examples]`."
        ) from error
    found = load_digits()
    grey = np.repeat(found.images[..., None] * (255 / 16), 3, axis=-1)
    images = tf.image.resize(grey.astype("float32"), (32, 32)).numpy()
    rest, test = train_test_split(
        np.arange(len(images)), test_size=TEST, stratify=found.target, random_state=seed
    )
    train, validation = train_test_split(
        rest, test_size=VALIDATION, stratify=found.target[rest], random_state=seed
    )
    augment = shift_and_mirror(2, mirror=False)
    return Data(
        "digits (scikit-learn, 8x8 enlarged to 32x32)",
        tuple(str(digit) for digit in range(10)),
        Split.of_arrays(images[train], found.target[train], augment),
        Split.of_arrays(images[validation], found.target[validation]),
        Split.of_arrays(images[test], found.target[test]),
        (32, 32, 3),
    )
