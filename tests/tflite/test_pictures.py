"""The scripts' reader of pictures, on files whose pixels are known."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "pictures.py"
read_pictures = runpy.run_path(str(SCRIPT))["read_pictures"]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, "uint8")).save(path, **options)


def flat(value, height=6, width=6):
    return np.full((height, width, 3), value)


def test_pictures_of_the_right_size_are_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3))
    for name, picture in zip(("b/1.png", "a.bmp"), pixels, strict=True):
        save(tmp_path / name, picture)
    (tmp_path / "readme.txt").write_text("no picture")
    found = read_pictures(str(tmp_path), (6, 4, 3))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels[::-1])  # a.bmp before b/1.png


def test_others_are_cropped_to_the_middle(tmp_path):
    wide = np.concatenate([flat(0, 8, 4), flat(100, 8, 8), flat(0, 8, 4)], axis=1)
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "tall.png", np.swapaxes(wide, 0, 1))
    found = read_pictures(str(tmp_path), (8, 8, 3))
    np.testing.assert_array_equal(found, [flat(100, 8, 8)] * 2)


def test_and_resized_by_averages(tmp_path):
    """As nets want it: fine stripes become grey instead of black or white."""
    stripes = np.tile(np.concatenate([flat(0, 40, 1), flat(200, 40, 1)], 1), (1, 20, 1))
    save(tmp_path / "stripes.png", stripes)
    found = read_pictures(str(tmp_path), (5, 5, 3))
    np.testing.assert_allclose(found, [flat(100, 5, 5)], atol=5)


def test_turned_as_the_camera_was_held(tmp_path):
    pixels = np.concatenate([flat(0, 4, 8), flat(255, 4, 8)])  # dark above bright
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path / "turned.png", pixels, exif=exif)
    np.testing.assert_array_equal(
        read_pictures(str(tmp_path), (8, 8, 3)), [pixels[::-1]]
    )


def test_grey_and_palette_pictures_become_rgb(tmp_path):
    save(tmp_path / "grey.png", np.full((6, 6), 7))
    Image.new("P", (6, 6), 0).save(tmp_path / "palette.gif")
    found = read_pictures(str(tmp_path), (6, 6, 3))
    assert found.shape == (2, 6, 6, 3)
    np.testing.assert_array_equal(found[0], flat(7))


def test_sixteen_bits_and_palettes(tmp_path):
    ramp = np.linspace(0, 65535, 32).astype("uint16")[None].repeat(32, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 220, 30, 40])
    picture.save(tmp_path / "red.bmp")
    found = read_pictures(str(tmp_path), (32, 32, 3))
    np.testing.assert_array_equal(found[0], (ramp // 256)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(found[1], np.full((32, 32, 3), [220, 30, 40]))


def test_hidden_files_are_skipped(tmp_path):
    """What macOS and file managers leave behind, wherever the folder itself lies."""
    home = tmp_path / ".cache"
    save(home / "1.jpg", flat(5))
    for hidden in (".thumbnails/1.jpg", "__MACOSX/1.jpg", "a/.b/1.jpg"):
        save(home / hidden, flat(200))
    (home / "._1.jpg").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    found = read_pictures(str(home), (6, 6, 3))
    assert len(found) == 1 and found.max() <= 7


@pytest.mark.parametrize("sides", [(40, 60), (61, 33), (24, 24)])
def test_the_middle_is_that_of_the_datasets(tmp_path, sides):
    """Both resize the shorter side by averages and keep the centre."""
    pytest.importorskip("tensorflow")
    from keras_dyngate.datasets.augmentation import resize_and_crop

    rows, columns = np.mgrid[: sides[0], : sides[1]]
    pixels = np.stack((rows * 4, columns * 4, 128 + 60 * np.sin(columns / 7)), -1)
    save(tmp_path / "a.png", pixels)
    (found,) = read_pictures(str(tmp_path), (24, 24, 3))
    expected, _ = resize_and_crop(24, 24)(pixels.astype("uint8"), 0)
    np.testing.assert_allclose(found, expected, atol=4)
    assert np.abs(found - expected).mean() < 1.5


def test_some_from_everywhere(tmp_path):
    for value in range(10):
        save(tmp_path / f"{value}.png", flat(value))
    chosen = read_pictures(str(tmp_path), (6, 6, 3), 4)[:, 0, 0, 0]
    assert chosen.tolist() == [0, 3, 6, 9]
    assert len(read_pictures(str(tmp_path), (6, 6, 3), 100)) == 10


def test_an_npz(tmp_path):
    images = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "x.npz", images=images.astype("uint8"))
    path = str(tmp_path / "x.npz")
    np.testing.assert_array_equal(read_pictures(path, (4, 4, 3)), images)
    assert len(read_pictures(path, (None, None, 3), 1)) == 1


def test_what_cannot_be_read(tmp_path):
    np.savez(tmp_path / "other.npz", pictures=np.zeros((1, 4, 4, 3)))
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "scaled.npz", images=np.full((2, 6, 6, 3), 0.7))
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 6, 6, 3)))
    np.savez(tmp_path / "text.npz", images=np.full((1, 6, 6, 3), "a"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "small.npz").read_bytes()[:80])
    np.save(tmp_path / "array.npy", np.zeros((1, 6, 6, 3)))
    for name, message in (
        ("other.npz", "with an array `images`"),
        (
            "small.npz",
            r"\['N', 6, 6, 3\], at least one. Received: float64 \[2, 4, 4, 3\]",
        ),
        ("none.npz", "at least one"),
        ("scaled.npz", "scaled.npz must be pixels from 0 to 255. Received: float64"),
        ("text.npz", "must hold numbers"),
        ("cut.npz", "with an array `images`"),
        ("array.npy", "with an array `images`"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_pictures(str(tmp_path / name), (6, 6, 3))
        assert name in str(caught.value)
    for folder, received in ((tmp_path, "without any"), (tmp_path / "no", "no such")):
        with pytest.raises(FileNotFoundError, match=received):
            read_pictures(str(folder), (6, 6, 3))


def test_a_broken_picture_is_named(tmp_path):
    save(tmp_path / "whole.png", flat(1, 64, 64))
    content = (tmp_path / "whole.png").read_bytes()
    broken = tmp_path / "broken" / "cut.png"
    broken.parent.mkdir()
    for damaged in (content[:60], b"no picture", b""):
        broken.write_bytes(damaged)
        with pytest.raises(ValueError, match="unreadable image: .*cut.png"):
            read_pictures(str(tmp_path), (6, 6, 3))


def test_sizes_that_pictures_cannot_be_made_for(tmp_path):
    save(tmp_path / "a.png", flat(1))
    for shape in ((None, 6, 3), (6, 6, 1), (784,)):
        with pytest.raises(ValueError, match="fixed size and 3 channels"):
            read_pictures(str(tmp_path), shape)


def test_without_pillow(tmp_path, monkeypatch):
    save(tmp_path / "a.png", flat(1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        read_pictures(str(tmp_path), (6, 6, 3))
