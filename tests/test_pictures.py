"""The one reader of pictures: every kind of file against the pixels that went into it."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from PIL import ImageOps, features  # noqa: E402

from keras_dyngate.pictures import (  # noqa: E402
    Unreadable,
    check_pixels,
    find_pictures,
    read_label_map,
    read_picture,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), "uint8")
GREY = np.random.default_rng(1).integers(0, 256, (6, 9), "uint8")
CLASSES = (np.arange(6 * 9) % 12).astype("uint8").reshape(6, 9)
PALETTE = np.random.default_rng(2).permutation(768).reshape(256, 3).astype("uint8")


def palette_picture(indices=CLASSES):
    picture = Image.fromarray(indices, "L")
    picture.putpalette(PALETTE.tobytes())  # which makes it "P"
    assert picture.mode == "P"
    return picture


def mode_of(path):
    with Image.open(path) as picture:
        return picture.mode


def turned(path):
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture))


def png_of_samples(samples, depth):
    """A grey PNG of 1, 2 or 4 bits, which Pillow cannot write."""
    bits = (samples[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(len(samples), -1), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *samples.shape[::-1], depth, 0, 0, 0, 0)

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif"])
def test_palettes_become_their_colours(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    palette_picture().save(path)
    assert mode_of(path) == "P"
    np.testing.assert_array_equal(read_picture(path), PALETTE[CLASSES])
    assert read_picture(path).dtype == "uint8"


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_grey_and_colours_are_as_they_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for pixels, expected in ((RGB, RGB), (GREY, np.stack([GREY] * 3, -1))):
        Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(read_picture(path), expected)
    Image.fromarray(GREY > 127).save(path)
    assert mode_of(path) == "1"
    np.testing.assert_array_equal(read_picture(path)[..., 1], (GREY > 127) * 255)


def test_sixteen_bits_are_a_ramp(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype("uint16")[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert mode_of(tmp_path / "ramp.png").startswith("I")
    expected = (ramp // 256).astype("uint8")[..., None].repeat(3, -1)
    np.testing.assert_array_equal(read_picture(tmp_path / "ramp.png"), expected)


def test_transparency_is_left_out(tmp_path):
    """As the colours that are stored, for every way to store it; without a warning."""
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack((RGB, GREY))).save(path)
    np.testing.assert_array_equal(read_picture(path), RGB)
    Image.fromarray(np.dstack((RGB[..., 0], GREY))).save(path)
    assert mode_of(path) == "LA"
    np.testing.assert_array_equal(read_picture(path)[..., 2], RGB[..., 0])
    for transparency in (bytes(range(0, 240, 20)), 3):
        palette_picture().save(path, transparency=transparency)
        np.testing.assert_array_equal(read_picture(path), PALETTE[CLASSES])
        np.testing.assert_array_equal(read_label_map(path), CLASSES)
    Image.fromarray(RGB).save(path, transparency=tuple(map(int, RGB[0, 0])))
    np.testing.assert_array_equal(read_picture(path), RGB)


def test_cmyk(tmp_path):
    inks = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 255, 0): (0, 255, 0)}
    for ink, colour in inks.items():
        Image.new("CMYK", (16, 16), ink).save(tmp_path / "a.jpg", quality=100)
        assert mode_of(tmp_path / "a.jpg") == "CMYK"
        found = read_picture(tmp_path / "a.jpg")
        assert np.abs(found.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(tmp_path, orientation):
    """Pillow's own function is the witness; a JPEG is turned like a PNG."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(RGB).save(path, exif=exif)
        expected = turned(path)
        assert expected.shape == ((9, 6, 3) if orientation > 4 else (6, 9, 3))
        np.testing.assert_array_equal(read_picture(path), expected)
    Image.fromarray(CLASSES).save(tmp_path / "a.png", exif=exif)
    expected = turned(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # which Pillow says
def test_exif_that_is_none_turns_nothing(tmp_path):
    for exif in (b"Exif\0\0no header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"):
        Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, quality=100)
        assert read_picture(tmp_path / "a.jpg").shape == RGB.shape


def test_the_content_says_what_it_is(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg"), RGB)
    if features.check("webp"):
        Image.fromarray(RGB).save(tmp_path / "b.webp", lossless=True)
        (tmp_path / "b.webp").rename(tmp_path / "b.jpg")
        np.testing.assert_array_equal(read_picture(tmp_path / "b.jpg"), RGB)


def test_the_first_picture_of_a_gif(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), v, "uint8")) for v in (200, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert set(read_picture(tmp_path / "a.gif").flat) == {200}


def test_label_maps_are_read_as_coded(tmp_path):
    path = tmp_path / "a.png"
    pictures = {
        "grey": Image.fromarray(CLASSES),
        "16 bits": Image.fromarray(CLASSES.astype("uint16")),
        "palette": palette_picture(),
        "three equal channels": Image.fromarray(np.stack([CLASSES] * 3, -1)),
        "grey and alpha": Image.fromarray(np.dstack((CLASSES, GREY))),
        "equal channels and alpha": Image.fromarray(np.dstack([CLASSES] * 3 + [GREY])),
    }
    for kind, picture in pictures.items():
        picture.save(path)
        found = read_label_map(path)
        assert found.dtype == "int32", kind
        np.testing.assert_array_equal(found, CLASSES, kind)
    large = CLASSES.astype("uint16") * 1000
    Image.fromarray(large).save(path)
    np.testing.assert_array_equal(read_label_map(path), large)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_label_maps_of_few_bits(tmp_path, depth):
    classes = CLASSES % 2**depth
    (tmp_path / "grey.png").write_bytes(png_of_samples(classes, depth))
    palette_picture(classes).save(tmp_path / "palette.png", bits=depth)
    for name in ("grey.png", "palette.png"):
        assert (tmp_path / name).read_bytes()[24] == depth
        np.testing.assert_array_equal(read_label_map(tmp_path / name), classes)
    white = read_picture(tmp_path / "grey.png")[..., 0]
    np.testing.assert_array_equal(white, classes * (255 // (2**depth - 1)))


def test_label_maps_in_colours(tmp_path):
    for mode in ("RGB", "RGBA"):
        palette_picture().convert(mode).save(tmp_path / "colours.png")
        with pytest.raises(Unreadable, match=f"colours.png.*as grey.*colours, {mode}"):
            read_label_map(tmp_path / "colours.png")


def test_what_cannot_be_read_is_named(tmp_path):
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), "uint8")
    for suffix in ("png", "jpg", "bmp", "gif"):
        Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        path = tmp_path / f"cut.{suffix}"
        for content in (whole[: len(whole) // 2], whole[:12], b"", b"no picture"):
            path.write_bytes(content)
            with pytest.raises(Unreadable) as error:
                read_picture(path)
            assert str(error.value).startswith(f"unreadable image: '{path}' (")
            assert error.value.name == str(path) and " at 0x" not in str(error.value)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(Unreadable, match="unreadable image"):
            read_picture(path)


def test_hidden_files_and_folders_are_skipped(tmp_path):
    shown = ["b.JPG", "a/2.png", "a/1.bmp", "a/c/1.jpeg", "a.gif"]
    hidden = [".x.jpg", "._b.JPG", ".thumbnails/1.jpg", "a/.cache/d/1.png"]
    hidden += ["__MACOSX/1.jpg", "a/__MACOSX/._1.jpg", "notes.txt", "jpg"]
    home = tmp_path / ".home"  # which is no reason to skip what was asked for
    for name in shown + hidden:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"")
    (home / "folder.png").mkdir()
    order = ["a/1.bmp", "a/2.png", "a/c/1.jpeg", "a.gif", "b.JPG"]
    found = find_pictures(home, subfolders=True)
    assert found == [str(home / name) for name in order]
    assert find_pictures(str(home)) == [str(home / "a.gif"), str(home / "b.JPG")]
    assert find_pictures(home / "none") == find_pictures(home / "b.JPG") == []


@pytest.mark.parametrize(
    "images",
    [
        np.linspace(0, 1, 12),
        np.linspace(-1, 1, 12),
        np.array([3.0, np.nan]),
        np.array([0, 256]),
    ],
)
def test_pixels_of_another_range(images):
    with pytest.raises(ValueError, match="`x` must be pixels from 0 to 255. Received"):
        check_pixels("`x`", images)


def test_pixels():
    for images in (
        np.arange(256),
        np.zeros(3),
        np.ones(3, "uint8"),
        np.array([0, 1.5]),
    ):
        check_pixels("`x`", images)


def test_it_needs_pillow_alone(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    code = (
        "import sys; from pathlib import Path\n"
        "from keras_dyngate.pictures import find_pictures, read_picture\n"
        "assert 'PIL' not in sys.modules, 'needed to read, not to look'\n"
        "print(read_picture(Path(find_pictures(sys.argv[1])[0])).sum())\n"
        "print([m for m in ('keras', 'tensorflow', 'jax') if m in sys.modules])\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=root
    )
    assert done.stdout.split("\n")[:2] == [str(RGB.sum()), "[]"], done.stderr


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        read_picture(tmp_path / "a.png")
