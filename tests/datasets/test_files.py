"""Reading pictures: formats, and files that are broken, missing or something else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")

from keras_dyngate.datasets.files import split_of  # noqa: E402
from keras_dyngate.pictures import find_pictures  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import take, write_jpeg, write_png  # noqa: E402

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), "uint8")


def bmp(pixels):
    """The bytes of an uncompressed BMP of 3 or 4 channels, widths a multiple of 4."""
    height, width, channels = pixels.shape
    order = [2, 1, 0, 3][:channels]
    rows = np.ascontiguousarray(pixels[::-1, :, order]).tobytes()
    header = np.array([54 + len(rows), 0, 54, 40, width, height], "<i4").tobytes()
    bits = np.array([1, 8 * channels], "<i2").tobytes()
    return b"BM" + header + bits + bytes(24) + rows


GIF = (  # two frames of 2x1 pixels: black and white, then white and black
    b"GIF89a\x02\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    b",\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x44\x0a\x00"
    b",\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x0c\x0a\x00;"
)


def read(path, **options):
    image, label = split_of(1, lambda index: (path, 7), **options).load(tf.constant(0))
    assert image.dtype == tf.uint8 and label.dtype == tf.int32
    return image.numpy()


def test_formats_become_rgb(tmp_path):
    path = tmp_path / "picture.PNG"
    grey, alpha = RGB[..., :1], np.concatenate((RGB, RGB[..., :1]), -1)
    for pixels, expected in (
        (RGB, RGB),
        (grey, np.repeat(grey, 3, -1)),
        (alpha, RGB),
        (RGB.astype("uint16") * 257, RGB),
    ):
        write_png(path, pixels)
        np.testing.assert_array_equal(read(path), expected)
    write_jpeg(path, np.full((6, 9, 3), 90, "uint8"))
    assert np.abs(read(path).astype(int) - 90).max() <= 1
    write_jpeg(path, np.full((6, 9, 1), 90, "uint8"))
    assert read(path).shape == (6, 9, 3)
    for pixels in (RGB[:, :8], alpha[:, :8]):
        path.write_bytes(bmp(pixels))
        np.testing.assert_array_equal(read(path), RGB[:, :8])
    path.write_bytes(GIF)
    np.testing.assert_array_equal(read(path)[..., 0], [[0, 255]])


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """Three good pictures among files of all sorts that are named like pictures."""
    for index in (2, 5, 7):
        write_png(tmp_path / f"{index}.png", np.full((6, 9, 3), index, "uint8"))
    write_jpeg(tmp_path / "whole.jpeg", RGB)
    whole = (tmp_path / "whole.jpeg").read_bytes()
    (tmp_path / "whole.jpeg").unlink()
    (tmp_path / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_text("not a picture")
    (tmp_path / "4.jpg").mkdir()
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "6.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "8.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "notes.txt").write_text("no picture at all")
    (tmp_path / ".9.png").write_bytes(content)
    return tmp_path


BROKEN = {0: "0.jpg", 1: "1.jpg", 3: "3.jpg", 5: "6.png", 7: "8.jpg"}  # by index


def split(folder, skip):
    paths = [Path(path) for path in find_pictures(folder)]
    labels = [int(path.stem) for path in paths]
    assert labels == [0, 1, 2, 3, 5, 6, 7, 8]  # 4 is a folder
    return split_of(8, lambda i: (paths[i], labels[i]), skip)


def test_the_error_names_the_file(folder):
    found = split(folder, skip=False)
    for index, name in BROKEN.items():
        with pytest.raises(ValueError) as error:
            found.load(tf.constant(index))
        assert f"unreadable image: '{folder / name}'" in str(error.value)
    assert found.unreadable == [str(folder / name) for name in BROKEN.values()]
    for pipeline in (found.batches(8), found.stream(8)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="unreadable image"):
            list(pipeline.take(1))


@pytest.mark.parametrize(
    "end",
    [
        "list(batches())",
        "try: list(batches())\nexcept ValueError as error: sys.exit(f'{error}')",
    ],
    ids=["uncaught", "as a line"],
)
def test_the_error_ends_the_process(folder, end):
    """Other pictures are being read by then, in threads that wait for Python."""
    script = f"""
import sys, time
from keras_dyngate.datasets.files import split_of
def fetch(index):
    start = time.time()
    while time.time() < start + 0.02:
        pass
    return ({str(folder / "5.png")!r} if index else {str(folder / "0.jpg")!r}), 1
def batches():
    return split_of(100_000, fetch).batches(64).as_numpy_iterator()
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and "unreadable image" in done.stderr


def test_broken_files_are_passed_over(folder):
    found = split(folder, skip=True)
    part, rest = found.hold_out(1)
    images, labels = found.arrays()
    assert labels.tolist() == [2, 5, 7]
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    _, labels = take(found.stream(3, seed=1), 6)
    assert set(labels.ravel()) == {2, 5, 7}
    late = take(found.stream(3, seed=1, start=2), 4)
    np.testing.assert_array_equal(late[1], labels[2:])
    assert sorted(found.unreadable) == [str(folder / name) for name in BROKEN.values()]
    assert part.unreadable is rest.unreadable is found.unreadable


def test_pillow_is_asked_for_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        split_of(1, lambda index: (Path("a.png"), 0))


def test_label_maps(tmp_path):
    image, labels = tmp_path / "image.png", tmp_path / "labels.png"
    write_png(image, RGB)
    values = np.random.default_rng(1).integers(0, 256, (6, 9, 1), "uint8")
    write_png(labels, values)
    table = np.random.default_rng(2).permutation(256).astype("uint8")
    found = split_of(1, lambda index: (image, labels), table=table)
    x, y = found.load(tf.constant(0))
    np.testing.assert_array_equal(x, RGB)
    np.testing.assert_array_equal(y, table[values[..., 0]])
    assert y.dtype == tf.int32

    write_png(labels, values[1:])
    with pytest.raises(ValueError, match="labels.png.*(5, 9)"):
        found.load(tf.constant(0))
    skipping = split_of(1, lambda index: (image, labels), skip=True, table=table)
    x, y = skipping.load(tf.constant(0))
    assert x.shape == (0, 0, 3) and y.shape == (0, 0)
    assert skipping.unreadable == found.unreadable == [str(labels)]
    for values in (np.full((6, 9), 7), np.arange(6 * 9).reshape(6, 9) + 300):
        Image.fromarray(values.astype("uint16")).save(labels)
        unknown = np.full(256, 255, "uint8")
        unknown[8] = 0
        found = split_of(1, lambda index: (image, labels), table=unknown)
        with pytest.raises(
            ValueError, match="labels.png.*no pixel.*known.*: (7|300, )"
        ):
            found.load(tf.constant(0))
    values[2, 3] = 8  # one is enough; what is beyond the table is of no class
    Image.fromarray(values.astype("uint16")).save(labels)
    y = found.load(tf.constant(0))[1].numpy()
    assert y[2, 3] == 0 and (y == 255).sum() == 6 * 9 - 1
    Image.fromarray(RGB).save(labels)
    with pytest.raises(ValueError, match="labels.png.*Received: colours, RGB"):
        found.load(tf.constant(0))
    os.unlink(labels)
    with pytest.raises(ValueError, match="labels.png.*No such"):
        found.load(tf.constant(0))
