import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate.models.weight_files import load_weights
from keras_dyngate.models.weights import trunk_slots
from tests import reference
from tests.stubs import images, outputs, randomize

pytestmark = [pytest.mark.usefixtures("numpy_initializers"), pytest.mark.heavy]

SMALL = {"input_shape": (8, 8, 3), "width": 0.25, "classifier_activation": None}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
to_numpy = ops.convert_to_numpy


def torch_arrays(blocks, widths, classes, large, bottleneck=False, head="fc", seed=0):
    """A random net as PyTorch would save it: its names and layouts, built by hand."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def conv(name, out, channels, size):
        scale = (out * size * size) ** -0.5
        shape = (out, channels, size, size)
        arrays[f"{name}.weight"] = rng.normal(0, scale, shape).astype("float32")

    def norm(name, channels):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            value = rng.uniform(low, high, channels)
            arrays[f"{name}.{part}"] = value.astype("float32")
        arrays[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", widths[0], 3, 7 if large else 3)
    norm("bn1", widths[0])
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        out = 4 * width if bottleneck else width
        for index in range(count):
            name = f"layer{stage}.{index}"
            sizes = (1, 3, 1) if bottleneck else (3, 3)
            here = channels
            for i, size in enumerate(sizes, 1):
                wide = out if i == len(sizes) else width
                conv(f"{name}.conv{i}", wide, here, size)
                norm(f"{name}.bn{i}", wide)
                here = wide
            if large and (channels != out or (stage > 1 and index == 0)):
                conv(f"{name}.downsample.0", out, channels, 1)
                norm(f"{name}.downsample.1", out)
            channels = out
    arrays[f"{head}.weight"] = rng.normal(0, 0.5, (classes, channels)).astype("float32")
    arrays[f"{head}.bias"] = rng.normal(0, 0.5, classes).astype("float32")
    return arrays


CIFAR = {"blocks": (3, 3, 3), "widths": (4, 8, 16), "classes": 10, "large": False}


def gates_of(model):
    return [b.channel_gate for b in model.layers if hasattr(b, "channel_gate")]


@pytest.fixture
def npz(tmp_path):
    def write(arrays, name="net.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


class TestNpz:
    """The whole net, once more in NumPy from the same arrays, says what is right."""

    @pytest.mark.parametrize("make", [kd.resnet20, kd.gated_resnet20])
    @pytest.mark.parametrize("head", ["fc", "linear"])
    def test_cifar(self, npz, make, head):
        arrays = torch_arrays(**CIFAR, head=head)
        model = make(weights=npz(arrays), **SMALL)
        arrays = {name.replace("linear", "fc"): v for name, v in arrays.items()}
        x = images(2, 8, 8, 3)
        expected = reference.resnet(x, arrays, (3, 3, 3), MEAN, STD)
        if make is kd.gated_resnet20:
            with kd.force_open_rate(model, 1.0):
                found = outputs(model, x)
        else:
            found = outputs(model, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("depth", "blocks", "bottleneck"),
        [(18, (2, 2, 2, 2), False), (50, (3, 4, 6, 3), True)],
    )
    def test_torchvision(self, npz, depth, blocks, bottleneck):
        arrays = torch_arrays(blocks, (4, 8, 16, 32), 7, True, bottleneck)
        model = getattr(kd, f"resnet{depth}")(
            weights=npz(arrays),
            classes=7,
            classifier_activation=None,
            input_shape=(38, 44, 3),
            width=1 / 16,
        )
        x = images(2, 38, 44, 3)
        expected = reference.resnet(x, arrays, blocks, MEAN, STD)
        scale = np.abs(expected).max()
        found = outputs(model, x)
        np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=2e-5)

    def test_shortcuts_as_cifar_nets_name_them(self, npz):
        """`shortcut.0` and `.1` for a projection, `linear` for the classifier."""
        arrays = torch_arrays((2, 2, 2, 2), (4, 8, 16, 32), 10, True, head="linear")
        arrays["conv1.weight"] = arrays["conv1.weight"][:, :, 2:5, 2:5]  # one 3x3
        options = {"stem": "cifar", "input_shape": (16, 16, 3), "width": 1 / 16}
        usual = kd.resnet18(weights=npz(arrays), **options).get_weights()
        named = {n.replace("downsample", "shortcut"): v for n, v in arrays.items()}
        assert sum("shortcut" in name for name in named) == 3 * 6
        path = npz({f"module.{name}": value for name, value in named.items()})
        found = kd.resnet18(weights=path, **options).get_weights()
        for a, b in zip(found, usual, strict=True):
            np.testing.assert_array_equal(a, b)
        named["layer2.0.shortcut.0.weight"] = np.zeros((8, 4, 3, 3), "float32")
        message = r"'layer2.0.shortcut.0.weight' must have shape \(8, 4, 1, 1\)"
        with pytest.raises(ValueError, match=message):
            kd.resnet18(weights=npz(named), **options)

    def test_without_the_top_the_classifier_is_left_out(self, npz):
        path = npz(torch_arrays(**CIFAR))
        model = kd.resnet20(weights=path, include_top=False, **SMALL)
        whole = kd.resnet20(weights=path, **SMALL)
        for a, b in zip(model.weights, whole.weights, strict=False):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))

    def test_gates_are_left_alone(self, npz):
        model = kd.gated_resnet20(**SMALL)
        gates = [b.channel_gate for b in model.layers if hasattr(b, "channel_gate")]
        before = [to_numpy(w) for gate in gates for w in gate.weights]
        load_weights(model, npz(torch_arrays(**CIFAR)))
        after = [to_numpy(w) for gate in gates for w in gate.weights]
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"blocks": (2, 2, 2)},
                r"'layer1.2.conv1.weight' .* Received: no such arr",
            ),
            ({"blocks": (4, 4, 4)}, "has no 'layer1.3.conv1.weight'. Received: 30 arr"),
            (
                {"widths": (4, 8, 32)},
                r"'layer3.0.conv1.weight' must have shape \(16, 8, 3, 3\). "
                r"Received: \(32, 8, 3, 3\)",
            ),
            (
                {"large": True},
                r"'conv1.weight' must have shape \(4, 3, 3, 3\). "
                r"Received: \(4, 3, 7, 7\)",
            ),
        ],
    )
    def test_another_architecture(self, npz, change, message):
        path = npz(torch_arrays(**{**CIFAR, **change}))
        with pytest.raises(ValueError, match=f"net.npz is of another arch.*{message}"):
            kd.resnet20(weights=path, **SMALL)

    def test_a_refused_file_changes_nothing(self, npz):
        model = kd.resnet20(**SMALL)
        before = model.get_weights()
        arrays = torch_arrays(**CIFAR)
        del arrays["fc.bias"]
        with pytest.raises(ValueError, match="'fc.bias'"):
            load_weights(model, npz(arrays))
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("prefix", ["module.", "state_dict.model.", "my_trunk."])
    def test_a_prefix_of_all_names_is_passed_over(self, npz, prefix):
        arrays = torch_arrays(**CIFAR)
        expected = kd.resnet20(weights=npz(arrays), **SMALL).get_weights()
        prefixed = {prefix + name: value for name, value in arrays.items()}
        found = kd.resnet20(weights=npz(prefixed), **SMALL).get_weights()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        # Errors spell names as the file does.
        prefixed[f"{prefix}layer1.0.conv2.weight"] = np.zeros((4, 4, 3, 1), "float32")
        message = (
            rf"'{prefix}layer1.0.conv2.weight' must have shape \(4, 4, 3, 3\). "
            r"Received: \(4, 4, 3, 1\)"
        )
        with pytest.raises(ValueError, match=message):
            kd.resnet20(weights=npz(prefixed), **SMALL)
        del prefixed[f"{prefix}layer1.0.conv2.weight"]
        with pytest.raises(ValueError, match=f"'{prefix}layer1.0.conv2.*no such array"):
            kd.resnet20(weights=npz(prefixed), **SMALL)

    def test_names_of_a_linear_head_are_spelled_as_in_the_file(self, npz):
        arrays = torch_arrays(**CIFAR, head="linear")
        arrays["linear.weight"] = arrays["linear.weight"][:, :5]
        message = r"'linear.weight' must have shape \(10, 16\). Received: \(10, 5\)"
        with pytest.raises(ValueError, match=message):
            kd.resnet20(weights=npz(arrays), **SMALL)

    def test_names_of_another_kind(self, npz):
        path = npz({f"features.{i}.weight": np.zeros((2, 2)) for i in range(4)})
        message = r"such as 'conv1.weight'. Received: 4 arrays, .*'features.0.weight'"
        with pytest.raises(ValueError, match=message):
            kd.resnet20(weights=path, **SMALL)
        with pytest.raises(ValueError, match="Received: 0 arrays"):
            kd.resnet20(weights=npz({}), **SMALL)

    @pytest.mark.parametrize("make", [kd.resnet20, kd.gated_resnet20])
    def test_a_classifier_for_other_classes_stays_behind(self, npz, make):
        path = npz(torch_arrays(**CIFAR))  # 10 classes
        whole = make(weights=path, **SMALL)
        message = (
            "net.npz has a classifier for 10 classes: the layer 'predictions' of "
            f"'{whole.name}' keeps its new weights, all others are loaded"
        )
        with pytest.warns(UserWarning, match=message):
            model = make(weights=path, classes=5, **SMALL)
        assert model.output_shape == (None, 5)
        found, expected = (trunk_slots(net) for net in (model, whole))
        assert len(found) == len(expected) > 60
        for name in found:
            if not name.startswith("fc."):
                np.testing.assert_array_equal(
                    to_numpy(found[name]), to_numpy(expected[name])
                )

    def test_a_file_without_classifier_fills_the_trunk(self, npz):
        arrays = torch_arrays(**CIFAR)
        whole = kd.resnet20(weights=npz(arrays), **SMALL).get_weights()
        del arrays["fc.weight"], arrays["fc.bias"]
        with pytest.warns(UserWarning, match="has no classifier: the layer 'predict"):
            model = kd.resnet20(weights=npz(arrays), **SMALL)
        for a, b in zip(model.get_weights()[:-2], whole[:-2], strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        ("name", "index", "value", "message"),
        [
            ("layer2.1.bn1.running_var", 3, np.nan, "with 1 of 8 that"),
            ("conv1.weight", slice(2), np.inf, "with 54 of 108 that"),
            ("fc.bias", 0, -np.inf, "with 1 of 10 that"),
            ("layer1.0.conv1.weight", 0, 1e300, "with 36 of 144 that"),
        ],
    )
    def test_numbers_that_are_none_are_refused(self, npz, name, index, value, message):
        arrays = torch_arrays(**CIFAR)
        arrays[name] = arrays[name].astype("float64")
        arrays[name][index] = value
        model = kd.resnet20(**SMALL)
        before = model.get_weights()
        with pytest.raises(ValueError, match=f"finite .* Received: '{name}' {message}"):
            load_weights(model, npz(arrays))
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("dtype", ["complex64", "U3", "V2"])
    def test_arrays_of_other_things_are_refused(self, npz, dtype):
        arrays = torch_arrays(**CIFAR)
        arrays["bn1.bias"] = np.zeros(4, dtype)
        with pytest.raises(ValueError, match="arrays of numbers.*'bn1.bias' of dtype"):
            kd.resnet20(weights=npz(arrays), **SMALL)

    @pytest.mark.parametrize("keep", [0, 10, 5000])
    def test_a_damaged_file(self, npz, keep):
        path = npz(torch_arrays(**CIFAR))
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match="`weights` must be a readable .npz"):
            kd.resnet20(weights=path, **SMALL)


class TestFiles:
    def test_keras_and_h5(self, tmp_path):
        source = randomize(kd.gated_resnet20(gates=kd.Gates(groups=2), **SMALL))
        x = images(2, 8, 8, 3)
        expected = outputs(source, x)
        source.save(tmp_path / "net.keras")
        source.save_weights(tmp_path / "net.weights.h5")
        for name in ("net.keras", "net.weights.h5"):
            model = kd.gated_resnet20(
                gates=kd.Gates(groups=2), weights=tmp_path / name, **SMALL
            )
            np.testing.assert_array_equal(outputs(model, x), expected)

    @pytest.mark.filterwarnings("ignore:__array__ implementation")  # within `warns`
    @pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
    def test_a_classifier_for_other_classes_stays_behind(self, tmp_path, ending):
        source = randomize(kd.gated_resnet20(**SMALL))
        path = tmp_path / f"net{ending}"
        (source.save if ending == ".keras" else source.save_weights)(path)
        with pytest.warns(UserWarning, match="'predictions' of .* keeps its new weig"):
            model = kd.gated_resnet20(weights=path, classes=5, **SMALL)
        x = images(2, 8, 8, 3)
        trunks = [
            keras.Model(net.input, net.get_layer("predictions").input)
            for net in (model, source)
        ]
        np.testing.assert_array_equal(*[outputs(trunk, x) for trunk in trunks])

    @pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
    @pytest.mark.parametrize("place", ["conv", "gate"])
    def test_numbers_that_are_none_are_refused(self, tmp_path, ending, place):
        source = randomize(kd.gated_resnet20(**SMALL))
        broken = source.get_layer("conv1").kernel
        if place == "gate":
            broken = gates_of(source)[0].expand.kernel
        values = np.array(to_numpy(broken))
        values.flat[1] = np.nan
        broken.assign(values)
        path = tmp_path / f"net{ending}"
        (source.save if ending == ".keras" else source.save_weights)(path)
        model = kd.gated_resnet20(**SMALL)
        before = [np.array(to_numpy(v)) for v in model.variables]
        with pytest.raises(
            ValueError, match=rf"finite .* with 1 of {values.size} that"
        ):
            load_weights(model, path)
        for a, b in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(a, to_numpy(b))

    def test_a_refused_h5_changes_nothing(self, tmp_path):
        randomize(kd.resnet20(**SMALL)).save_weights(tmp_path / "net.weights.h5")
        model = kd.resnet32(**SMALL)
        before = model.get_weights()
        with pytest.raises(ValueError, match="does not fit 'resnet32'"):
            load_weights(model, tmp_path / "net.weights.h5")
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="`weights` must be a file"):
            kd.resnet20(weights=tmp_path / "none.npz", **SMALL)

    def test_another_kind_of_file(self, tmp_path):
        (tmp_path / "net.pth").touch()
        with pytest.raises(ValueError, match="`weights` must be None or the path of"):
            kd.resnet20(weights=tmp_path / "net.pth", **SMALL)

    def test_h5_of_another_net(self, tmp_path):
        kd.resnet20(**SMALL).save_weights(tmp_path / "net.weights.h5")
        with pytest.raises(ValueError, match="net.weights.h5 does not fit 'resnet32'"):
            kd.resnet32(weights=tmp_path / "net.weights.h5", **SMALL)
