"""Images from 0 to 1 where 0 to 255 is meant, noticed among all that are looked at."""

import numpy as np

from keras_dyngate._warn import warn


class RangeWatch:
    """Notices images from 0 to 1, or -1 to 1, where 0 to 255 is meant.

    One dark picture may have such values; so all that are looked at are judged together.
    """

    def __init__(self) -> None:
        self._fraction = False
        self._beyond = False
        self._low, self._high = float("inf"), float("-inf")

    def look(self, images: np.ndarray) -> None:
        """Take in one image or several."""
        if self._beyond or not images.size or images.dtype.kind not in "biuf":
            return
        self._low = min(self._low, float(images.min()))
        self._high = max(self._high, float(images.max()))
        self._beyond = not -1 <= self._low <= self._high <= 1
        if images.dtype.kind == "f" and not self._beyond:
            self._fraction |= bool((images != np.rint(images)).any())

    def warn(self, name: str) -> None:
        """Warn if all values were within -1 and 1, and some no whole numbers."""
        if self._fraction and not self._beyond:
            warn(
                f"`{name}` should hold images from 0 to 255, unless the net was trained "
                "on other numbers and does not normalise inside. Received: values from "
                f"{self._low:.3g} to {self._high:.3g}",
            )
