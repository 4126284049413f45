"""Options of one kind of net, and the arguments that they replace."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate.export.options import from_keywords
from tests.export.nets import small_net

NONE = {"group_size": None, "subnetworks": None, "share_weights": None}


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"group_size": 4}, kd.GateOptions(group_size=4)),
        ({"subnetworks": [1]}, kd.AnytimeOptions(subnetworks=[1])),
        ({"share_weights": False}, kd.AnytimeOptions(share_weights=False)),
        (
            {"subnetworks": [1, 2], "share_weights": True},
            kd.AnytimeOptions(subnetworks=[1, 2], share_weights=True),
        ),
    ],
)
def test_the_old_arguments(given, options):
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    with pytest.warns(DeprecationWarning, match="will go in version 0.3") as found:
        assert from_keywords(None, **{**NONE, **given}) == options
    assert f"options=kd.{type(options).__name__}({words})" in str(found[0].message)
    assert found[0].filename == __file__


def test_no_old_arguments():
    options = kd.GateOptions(4)
    assert from_keywords(options, **NONE) is options
    assert from_keywords(None, **NONE) is None


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (kd.GateOptions(4), {"group_size": 4}),
        (None, {"group_size": 4, "share_weights": True}),
    ],
)
def test_both_forms_or_kinds(options, given):
    with pytest.raises(ValueError, match="`options` must be given alone.*Received: g"):
        from_keywords(options, **{**NONE, **given})


def test_the_old_form_still_exports(tmp_path):
    model, path = small_net(groups=32), tmp_path / "a.tflite"
    with pytest.warns(DeprecationWarning, match=r"kd.GateOptions\(group_size=4\)"):
        report = kd.export_tflite(model, path, group_size=4, parity_data=False)
    assert set(report.group_sizes.values()) == {4}
    options = kd.GateOptions(group_size=4)
    again = kd.export_tflite(model, path, options=options, parity_data=False)
    assert again.branches == report.branches


def test_options_stay_as_they_are():
    with pytest.raises(AttributeError):
        kd.GateOptions().group_size = 3


def test_a_first_net_has_two_forms():
    with pytest.raises(
        ValueError, match="`first_net` must be .*Received: first_net='float'"
    ):
        kd.GateOptions(first_net="float")
