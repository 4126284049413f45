"""The front, its file, its figure, and the nets behind its points."""

import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.tuning.results import TrialResult, save_model
from tests.tuning.nets import net, pictures


def point(name, accuracy, macs, ms=None, **more):
    return kd.ParetoPoint(name, accuracy, macs, ms, **more)


def names(front):
    return [p.name for p in front.points]


def test_who_is_beaten_is_not_on_the_front():
    front = kd.ParetoFront([point("a", 0.9, 100), point("b", 0.8, 50)])
    assert not front.add(point("c", 0.8, 60))
    assert not front.add(point("d", 0.7, 50))
    assert front.add(point("e", 0.9, 100))  # as good as another
    assert front.add(point("f", 0.95, 200))
    assert names(front) == ["b", "a", "e", "f"] and len(front.tried) == 6
    assert front.add(point("f", 0.95, 40))  # of the same name: it takes its place
    assert names(front) == ["f"] and len(front.tried) == 6
    assert "1 of 6 nets" in str(front) and "accuracy 0.950, 40 MACs" in str(front)


def test_every_known_cost_counts():
    slow, quick = point("slow", 0.9, 100, 5.0), point("quick", 0.9, 120, 3.0)
    front = kd.ParetoFront([slow, quick])
    assert front.known == ("ms", "macs") and names(front) == ["quick", "slow"]
    front.add(point("unknown", 0.9, 90))  # its ms are not known: MACs alone count
    assert front.known == ("macs",) and names(front) == ["unknown"]


def test_the_best_keeps_to_the_budget():
    points = [point("a", 0.9, 1), point("b", 0.8, 0.5), point("c", 1.0, 2, kept=False)]
    assert kd.ParetoFront(points).best.name == "a"
    assert "over the budget" in str(point("c", 1.0, 2, kept=False, share=0.7))
    with pytest.raises(ValueError, match="a point that keeps to the budget"):
        kd.ParetoFront(points[2:]).best  # noqa: B018
    with pytest.raises(ValueError, match="`point` must be a ParetoPoint"):
        kd.ParetoFront().add(("a", 1, 2))


def test_it_is_saved_and_read(tmp_path):
    folder = tmp_path / "trial_0000"
    folder.mkdir()
    save_model(net(), folder)
    model = str(folder / "model.keras")
    front = kd.ParetoFront(
        [
            point("0000", 0.9, 1e6, 2.0, bytes=9, values={"exits": 1}, model=model),
            point("0001", 0.8, 2e6),
        ]
    )
    front.save(tmp_path / "front.json")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (folder, tmp_path / "front.json"):
        path.rename(moved / path.name)
    again = kd.ParetoFront.load(moved / "front.json")
    assert [p.name for p in again.tried] == ["0000", "0001"]
    assert again.tried[0].values == {"exits": 1} and again.tried[0].bytes == 9
    assert again.model("0000").name == "tiny"
    with pytest.raises(FileNotFoundError, match="The net of '0001' must be where"):
        again.model(again.tried[1])
    with pytest.raises(ValueError, match=r"the name of one, such as \['0000'"):
        again.model("0007")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format": "another"}', b"\xff\x00"]
    + [
        json.dumps(
            {"format": "keras_dyngate Pareto front 1", "points": points}
        ).encode()
        for points in ([{"name": "a"}], [{"nets": 1}], [3], 3)
    ],
)
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "front.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` must be a file.*front\.json"):
        kd.ParetoFront.load(path)
    with pytest.raises(FileNotFoundError):
        kd.ParetoFront.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="`path` must be a file in an existing"):
        kd.ParetoFront().save(tmp_path / "none" / "front.json")


def test_it_is_read_from_a_search_of_which_some_is_damaged(tmp_path):
    for number in range(4):
        folder = tmp_path / f"trial_000{number}"
        folder.mkdir()
        metrics = {"val_accuracy": 0.9, "macs": 10.0 + number, "kept": 1.0}
        TrialResult(f"000{number}", folder, {"exits": 0}, metrics).save()
    (tmp_path / "trial_0001" / "result.json").write_text('{"format": ')
    (tmp_path / "trial_0002" / "result.json").unlink()
    with pytest.warns(UserWarning, match=r"trial_0001.result\.json is passed over"):
        front = kd.ParetoFront.of_search(tmp_path)
    assert [p.name for p in front.tried] == ["0000", "0003"]
    assert front.best.name == "0000" and front.best.model is None
    with pytest.raises(ValueError, match="`folder` must be that of a search"):
        kd.ParetoFront.of_search(tmp_path / "none")


def test_it_is_drawn(tmp_path):
    front = kd.ParetoFront([point("a", 0.9, 1e6, 2.0), point("b", 0.8, 9e5, 3.0)])
    front.add(point("c", 0.7, 1e6, 4.0))
    front.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="`front` must hold a point"):
        kd.ParetoFront().plot(tmp_path / "none.png")
    with pytest.raises(ValueError, match="`path` must be a file"):
        front.plot(tmp_path / "none" / "front.png")


@pytest.mark.heavy
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)
def test_any_point_is_exported(tmp_path):
    folder = tmp_path / "trial_0000"
    folder.mkdir()
    model = kd.add_layer_gates(net())
    save_model(model, folder)
    front = kd.ParetoFront([point("0000", 0.9, 1, model=str(folder / "model.keras"))])
    report = front.export(front.best, tmp_path / "net.tflite", parity_data=False)
    assert report.bytes == (tmp_path / "net.tflite").stat().st_size
    x = pictures(1)[0]
    found = kd.LiteRTModel(tmp_path / "net.tflite").run("classify", image=x)
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(
        np.exp(found["logits"]) / np.exp(found["logits"]).sum(), expected, atol=1e-4
    )
    with pytest.raises(ValueError, match="`path` must be a file in an existing"):
        front.export("0000", tmp_path / "none" / "net.tflite")
