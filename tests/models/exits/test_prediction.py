import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

import keras_dyngate as kd
from tests.stubs import images, outputs, randomize

pytestmark = [pytest.mark.usefixtures("numpy_initializers"), pytest.mark.heavy]

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy
INF = np.inf
N = 24
X = images(N, 6, 6, 3)


def trunk(classes=3, head=None, size=(6, 6, 3)):
    """A convolution, and a linear layer that `head` takes to what a user wants."""
    image = keras.Input(size)
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.Conv2D(5, 3, activation="relu", name="conv2")(x)
    x = layers.Dense(classes, name="dense")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(image, x if head is None else head(x)))


def raw_scores(net):
    """Of the layer named "dense", by hand."""
    conv2 = keras.Model(net.input, net.get_layer("conv2").output)
    kernel, bias = (to_numpy(w) for w in net.get_layer("dense").weights)
    return outputs(conv2, X).mean((1, 2)) @ kernel + bias


def nested_head(x):
    inside = keras.Input(x.shape[1:])
    return keras.Model(inside, layers.Softmax()(inside), name="nested")(x)


HEADS = {
    "none": lambda x: x,
    "activation": layers.Activation("softmax"),
    "layer": layers.Softmax(),
    "operator": keras.ops.softmax,
    "nested": nested_head,
    "identity": lambda x: layers.Identity()(layers.Softmax()(x)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_logits_are_raw_wherever_the_softmax_is(kind):
    net = trunk(head=HEADS[kind])
    model, config = kd.add_decision_gates(net, ["conv"]), net.get_config()
    found = model.predict(X, verbose=0)
    np.testing.assert_allclose(found["logits"], raw_scores(net), 1e-4, 1e-5)
    np.testing.assert_array_equal(found["label"], raw_scores(net).argmax(1))
    np.testing.assert_allclose(found["score"], raw_scores(net).max(1), 1e-4, 1e-5)
    expected = raw_scores(net) if kind == "none" else softmax(raw_scores(net), 1)
    for head in (outputs(net, X), to_numpy(model(X)["head"])):
        np.testing.assert_allclose(head, expected, 1e-4, 1e-5)
    assert net.get_config() == config


class TestOneOutput:
    """A sigmoid or a raw score: 1 above one half, or above 0."""

    Y = np.arange(N) % 2

    @pytest.mark.parametrize(
        ("head", "objective"),
        [(None, "hinge"), ("sigmoid", "cross_entropy"), ("layer", "hinge")],
    )
    def test_all_of_it(self, head, objective):
        heads = {"sigmoid": layers.Activation("sigmoid"), "layer": keras.ops.sigmoid}
        net = trunk(1, heads.get(head))
        x = X.copy()
        x[self.Y == 1] *= 0.2  # the label is to be seen
        model = kd.add_decision_gates(net, ["conv"], objective=objective)
        fits = model.fit_gates(x, self.Y[:, None], epochs=25)
        score = to_numpy(model(x)["gate_1"])[:, 0]
        assert fits["gate_1"].accuracy == ((score > 0) == self.Y).mean() > 0.9
        y, s = 2.0 * self.Y - 1, score.astype("float64")
        hinge = np.maximum(0, 1 - y * s).mean()
        expected = hinge if objective == "hinge" else np.logaddexp(0, -y * s).mean()
        assert fits["gate_1"].loss == pytest.approx(expected, rel=1e-3)

        outcome = model.calibrate(x, self.Y, exit_shares=[0.5])
        found = model.predict(x, verbose=0)
        leaves = np.abs(score) >= model.thresholds[0]
        assert leaves.sum() == N // 2 and outcome.shares[0] == 0.5
        np.testing.assert_array_equal(found["exit"], 1 - leaves)
        raw = keras.Model(net.input, net.get_layer("dense").output)
        said = np.where(leaves, score, outputs(raw, x)[:, 0])
        np.testing.assert_allclose(found["logits"][:, 0], said, 1e-4, 1e-5)
        np.testing.assert_allclose(found["score"], np.abs(said), 1e-4, 1e-5)
        np.testing.assert_array_equal(found["label"], said > 0)
        assert outcome.accuracy == ((said > 0) == self.Y).mean()
        judged = model.evaluate(x, self.Y, verbose=0, return_dict=True)
        assert judged["accuracy"] == outcome.accuracy

    @pytest.mark.parametrize("head", [None, layers.Activation("sigmoid")])
    def test_joint_fit(self, head):
        net = trunk(1, head)
        model = kd.add_decision_gates(net, ["conv"])
        model.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
        logs = model.fit(X, self.Y, batch_size=N, verbose=0).history
        z = raw_scores(net)[:, 0].astype("float64")
        y = self.Y
        loss = -np.where(y == 1, np.log(expit(z)), np.log(expit(-z))).mean()
        assert logs["head_loss"][0] == pytest.approx(loss, rel=1e-3)
        score = to_numpy(model(X)["gate_1"])[:, 0]
        assert logs["gate_1_loss"][0] == pytest.approx(
            np.maximum(0, 1 - (2 * y - 1) * score).mean(), rel=1e-3
        )
        expected = {"head": ((z > 0) == y).mean(), "gate_1": ((score > 0) == y).mean()}
        for name, accuracy in expected.items():
            assert logs[f"{name}_accuracy"][0] == pytest.approx(accuracy)

    def test_refused(self):
        with pytest.raises(ValueError, match="the softmax of one output is always 1"):
            kd.add_decision_gates(trunk(1, layers.Softmax()), ["conv"])
        model = kd.add_decision_gates(trunk(1), ["conv"])
        for labels in ([0, 2], [-1, 1], np.eye(2)):
            with pytest.raises(ValueError, match="class indices from 0 to 1"):
                model.fit_gates(X[:2], np.array(labels))


@pytest.fixture(scope="module")
def calibrated():
    net = trunk()
    model = kd.add_decision_gates(net, ["conv"])
    randomize(model.gates[0], 3)
    confidence = to_numpy(model(X)["gate_1"]).max(1)
    model.thresholds = [np.sort(confidence)[N // 2 - 1 : N // 2 + 1].mean()]
    return model


Y = np.arange(N) % 3


def dataset(with_weights=False):
    parts = [slice(0, 10), slice(10, 20), slice(20, N)]
    return [
        (X[p], Y[p], np.ones(len(Y[p]))) if with_weights else (X[p], Y[p])
        for p in parts
    ]


class Listed(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return dataset()[index % 3]  # never an IndexError


def forms():
    """The same data in every form."""
    import tensorflow as tf

    found = {
        "list": dataset(),
        "triples": dataset(True),
        "generator": (item for item in dataset()),
        "PyDataset": Listed(),
        "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),
    }
    return list(found.values())


class TestEvaluate:
    def expected(self, model):
        answers = model.predict(X, verbose=0)
        exits = answers["exit"]
        assert 0 < exits.mean() < 1
        per_exit = np.array(kd.count_macs(model).per_exit)
        return {
            "accuracy": pytest.approx((answers["label"] == Y).mean()),
            "macs": pytest.approx(per_exit[exits].mean()),
            "exit_shares": pytest.approx(((exits == 0).mean(), exits.mean())),
        }

    def test_judges_the_calibrated_net(self, calibrated):
        expected = self.expected(calibrated)
        found = calibrated.evaluate(X, Y, return_dict=True, verbose=0)
        assert found == expected
        assert calibrated.evaluate(X, np.eye(3)[Y]) == list(found.values())
        for data in forms():
            assert calibrated.evaluate(data, return_dict=True) == found

    def test_beside_keras(self):
        model = kd.add_decision_gates(trunk(), ["conv"])
        randomize(model.gates[0], 3)
        model.thresholds = [np.median(to_numpy(model(X)["gate_1"]).max(1))]
        expected = self.expected(model)
        model.compile("sgd", metrics=["accuracy"])
        head = outputs(model.trunk, X)
        loss = -np.log(softmax(head, 1)[np.arange(N), Y]).mean()
        found = model.evaluate(X, Y, verbose=0, return_dict=True)
        assert found["head_loss"] == pytest.approx(loss, rel=1e-3)
        for data in ((X, Y), *((form,) for form in forms())):
            found = model.evaluate(*data, verbose=0, return_dict=True)
            assert list(found)[-3:] == ["accuracy", "macs", "exit_shares"]
            judged = {name: found[name] for name in expected}
            assert judged == expected
            assert found["head_accuracy"] == pytest.approx((head.argmax(1) == Y).mean())
        history = model.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0).history
        assert "val_gate_1_loss" in history and "val_macs" not in history

    def test_bad_data(self, calibrated):
        with pytest.raises(ValueError, match="`y` must be given with images"):
            calibrated.evaluate(X)
        with pytest.raises(ValueError, match="from 0 to 2, or be one-hot.*from 1 to 3"):
            calibrated.evaluate(X, Y + 1)


class TestPredictArguments:
    def test_steps_and_callbacks(self, calibrated):
        whole = calibrated.predict(X, verbose=0)
        seen = []
        watch = keras.callbacks.LambdaCallback()
        watch.on_predict_begin = lambda logs=None: seen.append("begin")
        watch.on_predict_batch_end = lambda batch, logs=None: seen.append(batch)
        watch.on_predict_end = lambda logs=None: seen.append("end")
        found = calibrated.predict(X, 5, 0, 3, [watch])
        assert seen == ["begin", 0, 1, 2, "end"]
        for name, values in found.items():
            np.testing.assert_allclose(values, whole[name][:15], 1e-4, 1e-5)

    def test_steps_end_what_repeats(self, calibrated):
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(X).batch(8).repeat()
        with pytest.raises(ValueError, match="this dataset repeats for ever"):
            calibrated.predict(data)
        whole = calibrated.predict(X, verbose=0)
        found = calibrated.predict(data, steps=3, verbose=0)
        np.testing.assert_array_equal(found["exit"], whole["exit"])

    @pytest.mark.parametrize("verbose", [0, 1])
    def test_verbose(self, calibrated, capsys, verbose):
        calibrated.predict(X, verbose=verbose)
        assert bool(capsys.readouterr().out) == bool(verbose)

    def test_wrong_shape(self, calibrated):
        message = r"batches of shape \(None, 6, 6, 3\). Received: .* shape \(24, 6, 6\)"
        with pytest.raises(ValueError, match=message):
            calibrated.predict(X[..., 0])


@pytest.mark.parametrize("confidence", ["score", "distance", "margin", "entropy"])
def test_an_image_that_is_no_number_goes_to_the_head(confidence):
    image = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 3, name="conv")(image)  # a ReLU may make NaN 0
    y = layers.Dense(3)(layers.GlobalAveragePooling2D()(y))
    model = kd.add_decision_gates(
        randomize(keras.Model(image, y)), ["conv"], confidence=confidence
    )
    randomize(model.gates[0])
    model.thresholds = [-1e9]
    x = X.copy()
    x[3] = np.nan
    found, before = (model.predict(images, verbose=0) for images in (x, X))
    assert found["exit"].tolist() == [int(at == 3) for at in range(N)]
    assert np.isnan(found["logits"][3]).all() and not before["exit"].any()
    assert np.ravel(kd.decide(model, x)["exit"])[3] == 1
    others = np.arange(N) != 3
    np.testing.assert_array_equal(found["exit"][others], before["exit"][others])
    np.testing.assert_array_equal(found["label"][others], before["label"][others])


class TestOtherInputs:
    def test_grey(self):
        model = kd.add_decision_gates(trunk(size=(6, 6, 1)), ["conv"])
        randomize(model.gates[0], 3)
        grey = X[..., :1]
        model.fit_gates(grey[..., 0], Y, epochs=1)
        for name, values in model.predict(grey, verbose=0).items():
            other = model.predict(grey[..., 0], verbose=0)[name]
            np.testing.assert_array_equal(other, values)
        for name, values in model(grey).items():
            np.testing.assert_array_equal(to_numpy(model(grey[..., 0])[name]), values)

    @pytest.mark.parametrize("pooling", ["avg", "flatten"])
    def test_one_dimension(self, pooling):
        x = image = keras.Input((12, 3))
        x = layers.Conv1D(4, 3, activation="relu", name="a")(x)
        x = layers.Conv1D(5, 3, activation="relu", name="b")(x)
        x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x))
        model = kd.add_decision_gates(
            randomize(keras.Model(image, x)), ["a"], pooling=pooling
        )
        steps = X[:, :4, :3].reshape(N, 12, 3) / 255
        model.fit_gates(steps, Y, epochs=2)
        kernel, bias = (to_numpy(w) for w in model.gates[0].dense.weights)
        a = outputs(keras.Model(image, model.trunk.get_layer("a").output), steps)
        pooled = a.mean(1) if pooling == "avg" else a.reshape(N, -1)
        found = model.predict(steps, thresholds=[-INF], verbose=0)
        np.testing.assert_allclose(found["logits"], pooled @ kernel + bias, 1e-3, 1e-4)
        assert (found["macs"] == 10 * 9 * 4 + pooled.shape[1] * 3).all()
        outcome = model.calibrate(steps, Y, exit_shares=[0.5])
        assert outcome.shares == (0.5, 0.5)
        with pytest.raises(ValueError, match="needs feature maps of height and width"):
            kd.add_decision_gates(model.trunk, ["a"], pooling="avg4x4")

    @pytest.mark.parametrize("policy", ["float16", "float64", "mixed_float16"])
    def test_precisions(self, policy, dtype_policy):
        if policy == "float64" and keras.backend.backend() == "jax":
            pytest.skip("JAX has no float64 by default")
        dtype_policy(policy)
        model = kd.add_decision_gates(trunk(head=layers.Softmax()), ["conv"])
        model.fit_gates(X, Y, epochs=2)
        assert model.gates[0].dense.kernel.dtype == "float32"
        outcome = model.calibrate(X, Y, exit_shares=[0.5])
        found = model.predict(X, verbose=0)
        assert found["logits"].dtype == np.float32
        assert abs((found["exit"] == 0).mean() - outcome.shares[0]) <= 2 / N
        head = model.predict(X, thresholds=[INF], verbose=0)["logits"]
        np.testing.assert_allclose(head, raw_scores(model.trunk), 0.02, 0.02)
