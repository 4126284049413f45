"""Pictures from files as they are meant to be seen, and label maps as they were coded.

    from keras_dyngate.pictures import find_pictures, read_picture

    for path in find_pictures("photos", subfolders=True):
        pixels = read_picture(Path(path))  # uint8 [height, width, 3]

The one reader of this library, for training and on a device: it needs Pillow, but neither
Keras nor TensorFlow.
"""

import io
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # by content, whatever a file is called
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # the EXIF tag; what undoes each of its values but 1 follows
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class Source(Protocol):
    """A `pathlib.Path`, or what reads like one; its `str` stands in errors."""

    def read_bytes(self) -> bytes: ...


class Unreadable(ValueError):
    """A picture that is missing, broken or of another format.

    Attributes:
        name: Of the file.
    """

    def __init__(self, source: Source, reason: str) -> None:
        super().__init__(f"unreadable image: {str(source)!r} ({reason})")
        self.name = str(source)


def need_pillow() -> Any:
    """Pillow's `Image`, or an `ImportError` that says how to get it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Pictures in files need Pillow. Install it with `pip install pillow`."
        ) from error
    return Image


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's: `.thumbnails`, `._1.jpg`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def find_pictures(
    folder: str | os.PathLike[str], subfolders: bool = False
) -> list[str]:
    """Paths of the files in it that are named like pictures, sorted; not hidden ones.

    Args:
        folder: Where to look; none are found if it is not there.
        subfolders: Whether to look into its folders too, the hidden ones left out.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=fail):
        found += [
            os.path.join(place, name)
            for name in files
            if name.lower().endswith(SUFFIXES) and not is_hidden(name)
        ]
        folders[:] = [f for f in folders if subfolders and not is_hidden(f)]
    return sorted(found, key=lambda path: path.split(os.sep))


def check_pixels(name: str, images: np.ndarray) -> None:
    """A `ValueError` naming `name` if they are not of 0 to 255, but of 0 to 1, say."""
    low, high = images.min(), images.max()
    scaled = images.dtype.kind == "f" and 0 < high <= 1
    if scaled or not (low >= 0 and high <= 255):  # so written for NaN
        raise ValueError(
            f"{name} must be pixels from 0 to 255. Received: {images.dtype} from {low} "
            f"to {high}"
        )


def read_picture(source: Source) -> np.ndarray:
    """A picture in colours, upright, uint8 `[height, width, 3]`, 0 to 255.

    It is turned as its EXIF orientation says. Palettes become their colours, CMYK becomes
    RGB, of 16 bits the upper 8 are taken, and transparency is left out: every pixel has
    the colour that is stored for it. Of a GIF it is the first picture.

    Args:
        source: A `pathlib.Path`, or anything with `read_bytes()`.

    Raises:
        Unreadable: If it is missing, broken (cut off, say) or of another format.
        ImportError: If Pillow is not installed.
    """
    return _read(source, lambda image, content: _colours(image))


def read_label_map(source: Source) -> np.ndarray:
    """The classes of a label map, int32 `[height, width]`, as they were coded.

    Those are grey values, of 1 to 16 bits, or the indices of a palette, whatever its
    colours. Three equal channels count as grey.

    Args, errors: See `read_picture`; a map in colours is `Unreadable`, too.
    """

    def codes(image: Any, content: bytes) -> np.ndarray:
        values = np.asarray(image).astype("int32")
        if values.ndim == 3:
            if image.mode.endswith("A"):
                values = values[..., :-1]
            if (values != values[..., :1]).any():
                raise ValueError(
                    "a label map must hold classes as grey values or as indices of a "
                    f"palette. Received: colours, {image.mode}"
                )
            values = values[..., 0]
        if image.mode == "L" and content.startswith(PNG):
            # Pillow stretches grey of 2 and 4 bits to 0 ... 255.
            values //= 255 // (2 ** min(content[24], 8) - 1)
        return values

    return _read(source, codes)


def _colours(image: Any) -> np.ndarray:
    image.info.pop("transparency", None)  # or Pillow asks for RGBA, which is not wanted
    if image.mode.startswith("I"):
        grey = (np.asarray(image) >> 8).astype("uint8")
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def _read(source: Source, convert: Callable[[Any, bytes], np.ndarray]) -> np.ndarray:
    Image = need_pillow()
    Image.init()  # WebP is not among the formats it begins with, nor in every Pillow
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        content = source.read_bytes()
        with Image.open(io.BytesIO(content), formats=formats) as image:
            image.load()
            return convert(_upright(image), content)
    except Image.UnidentifiedImageError as error:
        raise Unreadable(source, f"not a {', '.join(formats)}") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise Unreadable(source, str(error)) from error


def _upright(image: Any) -> Any:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # as many kinds; what cannot be read turns nothing
        return image
    if orientation not in UPRIGHT:
        return image
    return image.transpose(getattr(need_pillow().Transpose, UPRIGHT[orientation]))
