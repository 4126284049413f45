"""Folders of pictures: their layouts, and who is in which part."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import (  # noqa: E402
    check_stream,
    colours,
    plain,
    take,
    write_classes,
    write_jpeg,
    write_png,
)

image_folder = kd.datasets.image_folder
pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)
TRAIN = {"cat": 8, "ant": 6, "bee": 10}
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """Cats are of colours 0 to 7, ants 8 to 13, bees 14 to 23; to judge by, 24 to 28."""
    first = write_classes(tmp_path / "train", TRAIN)
    write_classes(tmp_path / "val", {"cat": 2, "bee": 3}, first)
    return tmp_path


def test_imagenet_layout(folder):
    data = image_folder(folder, 8, validation=6, name="animals")
    assert data.name == "animals" and data.classes == CLASSES
    assert data.image_shape == (8, 8, 3) and data.ignore_class is None
    parts = [s.arrays() for s in (data.validation, data.train, data.test)]
    held, rest, test = (x[:, 0, 0, 0].astype(int).tolist() for x, _ in parts)
    assert len(held) == 6 and sorted(held + rest) == list(range(24))
    assert test == [26, 27, 28, 24, 25]
    for images, labels in parts:
        value = images[:, 0, 0, 0]
        cat = (value < 8) | (value == 24) | (value == 25)
        np.testing.assert_array_equal(labels == 2, cat)
        np.testing.assert_array_equal(labels == 0, (value >= 8) & (value < 14))
    # 6 of 24: a quarter of every class, rounded.
    assert sorted(np.bincount(parts[0][1])) in ([1, 2, 3], [2, 2, 2])
    assert data.train.augment and not (data.validation.augment or data.test.augment)
    assert colours(image_folder(folder, 8, 6).validation) == held
    assert any(
        colours(image_folder(folder, 8, 6, s).validation) != held for s in (1, 2)
    )
    assert len(image_folder(folder, 8).validation) == 2
    check_stream(data.train)


def test_held_out_pictures_are_shown_as_for_judging(folder):
    """A ramp stays a ramp, and the same one in every epoch."""
    ramp = np.broadcast_to(np.arange(8, dtype="uint8")[:, None], (8, 8, 3))
    for path in folder.glob("*/*/*.png"):
        write_png(path, ramp)
    data = image_folder(folder, 8, validation=8)
    images, _ = take(data.validation.stream(8), 2)
    np.testing.assert_array_equal(images, np.broadcast_to(ramp, images.shape))
    varied, _ = take(data.train.stream(8), 2)
    assert not np.array_equal(varied, np.broadcast_to(ramp, varied.shape))


@pytest.mark.parametrize("judged", ["validation", "test"])
def test_other_names_of_the_folder_to_judge_by(folder, judged):
    (folder / "val").rename(folder / judged)
    data = image_folder(folder, 8, validation=6)
    assert colours(data.test) == [26, 27, 28, 24, 25]
    assert sorted(colours(data.validation) + colours(data.train)) == list(range(24))


def test_all_three_parts_may_be_there(folder):
    write_classes(folder / "test", {"ant": 2}, 29)
    data = image_folder(folder, 8)
    assert colours(data.validation) == [26, 27, 28, 24, 25]
    assert colours(data.test) == [29, 30] and len(data.train) == 24


def test_a_flat_folder_is_divided(tmp_path):
    write_classes(tmp_path, TRAIN)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.txt").write_text("three animals")
    data = image_folder(tmp_path, 8, validation=6)
    assert data.name == tmp_path.name and data.classes == CLASSES
    parts = [colours(split) for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [12, 6, 6]
    assert sorted(sum(parts, [])) == list(range(24))
    for split in (data.validation, data.test):
        share = np.bincount(split.arrays()[1]) - np.array([6, 10, 8]) / 4
        assert np.abs(share).max() < 1
    with pytest.raises(
        ValueError, match="`validation` must leave.*12 to hold out of 12"
    ):
        image_folder(tmp_path, 8, validation=12)
    with pytest.raises(ValueError, match="`validation` must be how many pictures"):
        image_folder(tmp_path, 8, validation=0.2)


def test_tiny_imagenet_layout(tmp_path):
    value = 0
    for wnid in ("n02", "n01"):
        for _ in range(3):
            write_jpeg(
                tmp_path / f"train/{wnid}/images/{wnid}_{value}.JPEG", plain(value)
            )
            value += 20
        (tmp_path / f"train/{wnid}/{wnid}_boxes.txt").write_text("boxes")
    lines = []
    for index, wnid in enumerate(("n02", "n01", "n02")):
        write_jpeg(tmp_path / f"val/images/val_{index}.JPEG", plain(120 + 20 * index))
        lines.append(f"val_{index}.JPEG\t{wnid}\t0\t0\t7\t7\n")
    (tmp_path / "val/val_annotations.txt").write_text("".join(lines))
    write_jpeg(tmp_path / "test/images/test_0.JPEG", plain(250))
    data = image_folder(tmp_path, 8, validation=2)
    assert data.classes == ("n01", "n02")
    images, labels = data.test.arrays()
    np.testing.assert_allclose(images[:, 0, 0, 0], [120, 140, 160], atol=1)
    assert labels.tolist() == [1, 0, 1]
    values = [s.arrays()[0][:, 0, 0, 0] for s in (data.train, data.validation)]
    np.testing.assert_allclose(
        sorted(np.concatenate(values)), np.arange(6) * 20, atol=1
    )
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tn03\n")
    with pytest.raises(ValueError, match="val_annotations.txt.*n03"):
        image_folder(tmp_path, 8)


def test_annotations_as_editors_write_them(tmp_path):
    write_classes(tmp_path / "train", {"n01": 2, "n02": 2})
    for index in range(2):
        write_png(tmp_path / f"val/images/{index}.png", plain(100 + index))
    lines = "\ufeff0.png\tn02\t0\r\n1.png\tn01\t0\r\n\r\n"
    (tmp_path / "val/val_annotations.txt").write_bytes(lines.encode())
    images, labels = image_folder(tmp_path, 8, validation=1).test.arrays()
    assert labels.tolist() == [1, 0] and images[:, 0, 0, 0].tolist() == [100, 101]


def test_pictures_beside_a_subfolder_of_them(folder):
    """All are read, or it is said which are not."""
    write_png(folder / "train/cat/images/extra.png", plain(99))
    for hidden in ("train/.git/1.png", "train/__MACOSX/1.png", "train/cat/.old/1.png"):
        write_png(folder / hidden, plain(98))
    (folder / "train/cat/._000.png").write_bytes(b"AppleDouble")
    (folder / "train/cat/notes").mkdir()
    data = image_folder(folder, 8, validation=6)
    assert data.classes == CLASSES
    shown = colours(data.train) + colours(data.validation)
    assert sorted(shown) == [*range(24), 99]
    write_png(folder / "train/cat/more/deep/1.png", plain(97))
    with pytest.raises(ValueError, match="its subfolder 'images'.*train/cat/more'"):
        image_folder(folder, 8, validation=6)


def test_photos_are_upright_and_in_their_colours(tmp_path):
    """As phones store them, on their side; and a BMP with a palette."""
    upright = np.zeros((32, 32, 3), "uint8")
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([220, 30, 40])
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(2):
                path = tmp_path / part / name / f"{k}.jpg"
                Image.fromarray(np.rot90(upright)).save(path, exif=exif, quality=100)
        palette.save(tmp_path / part / "b" / "9.bmp")
    images = image_folder(tmp_path, 32, validation=1).test.arrays()[0]
    for image in images[:4]:
        assert image[:15].min() > 250 and image[17:].max() < 5
    np.testing.assert_array_equal(images[4], np.full((32, 32, 3), [220, 30, 40]))


def test_augmentation(folder):
    """Shifts leave a black border and small pictures whole; parts leave none."""
    for path in folder.glob("*/*/*.png"):
        write_png(path, plain(200, 16, 16))

    def border(size, **options):
        data = image_folder(folder, size, validation=6, **options)
        images, _ = take(data.train.stream(18), 2)
        assert images.shape[2:] == (size, size, 3)
        judged = data.test.arrays()[0]
        np.testing.assert_allclose(judged, np.full_like(judged, 200), rtol=1e-5)
        return images.min() == 0

    assert border(16) and border(16, augmentation="shift")
    assert border(8, augmentation="shift")
    assert not border(16, augmentation="crop")
    assert not border(8) and not border(24)


def test_unreadable_pictures(folder):
    broken = folder / "train" / "ant" / "000.png"
    broken.write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"unreadable image: '{broken}'"):
        image_folder(folder, 8)
    data = image_folder(folder, 8, augmentation="crop")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"image: '{broken}'"):
        list(data.train.batches(30))
        list(data.validation.batches(30))
    assert data.train.unreadable == data.validation.unreadable == [str(broken)]

    data = image_folder(folder, 8, validation=6, skip_unreadable=True)
    assert data.train.unreadable == [str(broken)]
    shown = colours(data.train) + colours(data.validation)
    assert sorted(shown) == list(range(24)) and data.test.unreadable == []
    assert len(data.train) + len(data.validation) == 25
    for path in folder.glob("train/*/*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(FileNotFoundError, match="None of 25 pictures.*000.png"):
        image_folder(folder, 8, skip_unreadable=True)


def test_missing_folders(tmp_path):
    hint = (
        r"must be a folder that holds train/<class>.*image-net.org.*Received: data_dir="
    )
    for place in (tmp_path / "none", tmp_path, None):
        with pytest.raises(FileNotFoundError, match=hint) as error:
            image_folder(place)
        assert "\n" not in str(error.value)
    write_classes(tmp_path / "train", {"ant": 1})
    with pytest.raises(ValueError, match="two classes or more.*the class 'ant' alone"):
        image_folder(tmp_path)
    write_classes(tmp_path / "train", {"bee": 1})
    with pytest.raises(FileNotFoundError, match=hint):
        image_folder(tmp_path, 8, 1)
    write_classes(tmp_path / "val", {"wasp": 1})
    with pytest.raises(ValueError, match="among those of the training.*'wasp'"):
        image_folder(tmp_path, 8, 1)
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture of a class in.*cat"):
        image_folder(tmp_path)


def test_errors(folder):
    with pytest.raises(ValueError, match="`image_size` must be a positive integer"):
        image_folder(folder, (8, 8))
    with pytest.raises(ValueError, match="`augmentation` must be one of 'auto'"):
        image_folder(folder, 8, augmentation="none")
    for count in (0, 24):
        with pytest.raises(ValueError, match="`validation` must leave pictures"):
            image_folder(folder, 8, validation=count)
