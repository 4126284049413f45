"""A file of an anytime net goes on where it stopped, and computes nothing twice."""

import functools
import math
import re
import types
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate import _hooks  # noqa: E402
from keras_dyngate.export.conversion import convert  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.export.parity import check_parity  # noqa: E402
from keras_dyngate.export.plan import plan  # noqa: E402
from keras_dyngate.export.plan.anytime_parity import network_parity  # noqa: E402
from keras_dyngate.export.plan.subnetwork_costs import subnetwork_costs  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import only_builtins  # noqa: E402
from tests.stubs import images, outputs, randomize  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
    pytest.mark.usefixtures("module_numpy_initializers"),
]

HEIGHT, WIDTH, CLASSES, COARSE = 8, 12, 5, 3
X = np.round(images(20, HEIGHT, WIDTH, 3))
TAXONOMY = kd.HierarchicalTaxonomy([0, 1, 1, 0, 2])
BASE = {"blocks": 1, "input_shape": (HEIGHT, WIDTH, 3), "classes": CLASSES}
GROUPS = {"branch_width": 2, "classifier_activation": None}
COMMON = {"logits", "label", "executed_macs"}


class Kind(NamedTuple):
    """A net, and how it is exported."""

    name: str
    arguments: dict
    options: dict


KINDS = {
    # Wide enough for what is no weight to be a small part of the file.
    "resnet": Kind(
        "sliced_resnet", {"width": 36, "subnetworks": 3}, {"subnetworks": (3, 1, 3)}
    ),
    "mixed": Kind(
        "sliced_resnext",
        {
            **GROUPS,
            "width": 6,
            "subnetworks": 2,
            "cardinality": 6,
            "blocks": (1, 2, 1),
            "execution": "sliced",
            # Keras's normalization keeps its constants in bfloat16.
            "include_preprocessing": False,
        },
        {"subnetworks": [1]},
    ),
    "coarse": Kind(
        "sliced_resnext",
        {
            **GROUPS,
            "width": 12,
            "subnetworks": 3,
            "cardinality": 6,
            "heads": "shared",
            "taxonomy": TAXONOMY,
            "coarse_heads": 1,
        },
        {},
    ),
    "shared": Kind(
        "inclusive_resnext",
        {**GROUPS, "width": 7, "subnetworks": 3, "cardinality": 6},
        {},
    ),
    "folded": Kind(
        "inclusive_resnext",
        {**GROUPS, "width": 7, "subnetworks": 3, "cardinality": 6},
        {"share_weights": False},
    ),
}
CHOSEN = {
    "resnet": [1, 3],
    "mixed": [1],
    "coarse": [3],
    "shared": [1, 2, 3],
    "folded": [1, 2, 3],
}
SLICED = [kind for kind in KINDS if not KINDS[kind].name.startswith("inclusive")]


def made(kind):
    """Random weights; biases by which no class is the answer to all images."""
    name, arguments, _ = KINDS[kind]
    model = randomize(getattr(kd, name)(**{**BASE, **arguments}))
    means = [np.mean(scores, axis=0) for scores in model.network.every(X)]
    if kind == "coarse":
        biases = {"coarse_head": means[0], "fine_head": means[-1]}
    elif kind in SLICED:
        biases = {"heads": np.concatenate(means)}
    else:
        biases = {f"head_{k}": mean for k, mean in enumerate(means, 1)}
    for name, mean in biases.items():
        bias = model.get_layer(name).bias
        bias.assign(keras.ops.convert_to_numpy(bias) - mean)
    return model


class Exported(NamedTuple):
    model: Any
    report: Any
    litert: Any

    @property
    def content(self):
        return self.litert.path.read_bytes()


@pytest.fixture(scope="module")
def net():
    """By kind; the mixed one computes in bfloat16."""

    @functools.cache
    def make(kind):
        before = keras.config.dtype_policy()
        try:
            if kind == "mixed":
                keras.config.set_dtype_policy("mixed_bfloat16")
            return made(kind)
        finally:
            keras.config.set_dtype_policy(before)

    return make


@pytest.fixture(scope="module")
def exported(tmp_path_factory, net):
    @functools.cache
    def export(kind, quantization):
        path = tmp_path_factory.mktemp("anytime") / "net.tflite"
        camera = quantization == "int8" and kind == "resnet"
        report = kd.export_tflite(
            net(kind),
            path,
            quantization=quantization,
            representative_data=X if quantization == "int8" else None,
            input_type="uint8" if camera else "float32",
            parity_data=X[:4] if camera else None,
            options=kd.AnytimeOptions(**KINDS[kind].options),
        )
        return Exported(net(kind), report, kd.LiteRTModel(path))

    return lambda kind, quantization=None: export(kind, quantization)


@pytest.fixture(scope="module")
def truth(net):
    """Raw scores of every sub-network in Keras, by k, in float32."""

    @functools.cache
    def make(kind):
        model = net(kind)
        if kind == "resnet":
            return {k: model.predict_at(k, X) for k in range(1, 4)}
        if kind == "mixed":
            model = made(kind)
            model.set_weights(net(kind).get_weights())
        found = outputs(model, X)  # in one pass, from masked kernels
        classes = [COARSE] * model.coarse_heads + [CLASSES] * model.subnetworks
        return {
            k: found[:, k - 1, : classes[k - 1]] for k in range(1, found.shape[1] + 1)
        }

    return make


def step_name(k):
    return f"step_{k}" if k > 1 else "start"


def number(name):
    """The sub-network that a signature answers for."""
    return 1 if name == "start" else int(re.search(r"\d+$", name)[0])


def run_steps(litert, image):
    """Outputs of all steps in order, by name, and all they have left."""
    kept, found, k = {"image": image}, {}, 1
    while step_name(k) in litert.signatures:
        wanted = litert.signatures[step_name(k)].inputs
        answer = litert.run(step_name(k), **{name: kept[name] for name in wanted})
        found[step_name(k)] = answer
        kept |= {name: x for name, x in answer.items() if name not in COMMON}
        k += 1
    return found, kept


def run_all(litert, image):
    """Outputs of all steps and of all sub-networks, by name."""
    found, _ = run_steps(litert, image)
    for name in litert.signatures:
        if name.startswith("classify_k"):
            found[name] = litert.run(name, image=image)
    return found


def spatial(stage):
    return (HEIGHT >> stage) * (WIDTH >> stage)


def sizes(kind):
    """Width, inner width and branches per group by stage, and K, of the arguments."""
    arguments = KINDS[kind].arguments
    width, groups = arguments["width"], arguments.get("cardinality", 0)
    count = arguments["subnetworks"]
    return [(width << s, (groups * 2) << s, 2 << s) for s in range(3)], count


def blocks_of(kind):
    blocks = KINDS[kind].arguments.get("blocks", 1)
    return blocks if isinstance(blocks, tuple) else 3 * (blocks,)


def kernels_of_step(kind, k):
    """(positions, numbers in the kernel) of what the step to k must compute."""
    stages, count = sizes(kind)
    found = [(spatial(0), 27 * stages[0][0] // count)]
    for stage, ((width, inner, branch), blocks) in enumerate(
        zip(stages, blocks_of(kind), strict=True)
    ):
        part, inner_part, at = width // count, inner // count, spatial(stage)
        if inner:
            block = [k * part * inner_part, 9 * branch * inner_part]
            block += [k * inner_part * part]
        else:
            block = 2 * [9 * k * part * part]
        found += [(at, size) for size in block] * blocks
    rows, classes = k * part, CLASSES
    if kind == "coarse":  # a head goes on from the one before, if of the same level
        rows, classes = {1: (part, 3), 2: (2 * part, 5), 3: (part, 5)}[k]
    return [*found, (1, rows * classes)]


def kernels_of_subnetwork(kind, k):
    """The same of sub-network k alone."""
    stages, count = sizes(kind)
    if kind in SLICED:
        trunks = [kernels_of_step(kind, j)[:-1] for j in range(1, k + 1)]
        part, classes = stages[2][0] // count, CLASSES
        if kind == "coarse" and k == 1:
            classes = COARSE
        return [*sum(trunks, []), (1, k * part * classes)]
    found = [(spatial(0), 27 * stages[0][0])]
    for stage, (width, inner, branch) in enumerate(stages):
        used = inner * k // count
        for size in (width * used, 9 * branch * used, used * width):
            found.append((spatial(stage), size))
    return [*found, (1, width * CLASSES)]


def hand_macs(kind, name):
    count = kernels_of_subnetwork if name.startswith("cl") else kernels_of_step
    return sum(math.prod(pair) for pair in count(kind, number(name)))


def graph_of(file, name):
    (found,) = (s for s in file.signatureDefs if s.signatureKey == name.encode())
    return file.subgraphs[found.subgraphIndex]


def constants(file, name):
    """Buffers that a signature's operators read, and those of them that are kernels."""
    graph, found, kernels = graph_of(file, name), set(), set()
    for operator in graph.operators:
        for place, index in enumerate(operator.inputs):
            if index < 0 or file.buffers[graph.tensors[index].buffer].data is None:
                continue
            buffer = graph.tensors[index].buffer
            found.add(buffer)
            kind = flatbuffer.op_name(file, operator)
            if place == 1 and kind in ("CONV_2D", "FULLY_CONNECTED"):
                kernels.add(buffer)
        assert not flatbuffer.branches(operator)
    return found, kernels


def packed_quantization(file, signature, output):
    """Scale and zero point of the int8 numbers behind a packed output."""
    (entry,) = (s for s in file.signatureDefs if s.signatureKey == signature.encode())
    (port,) = (x.tensorIndex for x in entry.outputs if x.name == output.encode())
    graph = file.subgraphs[entry.subgraphIndex]
    (operator,) = (op for op in graph.operators if port in op.outputs)
    assert flatbuffer.op_name(file, operator) == "BITCAST"
    return flatbuffer.scale_and_zero_point(graph.tensors[operator.inputs[0]])


def total_bytes(file, buffers):
    return sum(len(file.buffers[index].data) for index in buffers)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_keras(exported, truth, kind):
    """All steps and sub-networks, within 1e-5 of the largest score."""
    _, _, litert = exported(kind)
    expected = truth(kind)
    assert all(len(set(scores.argmax(-1))) > 1 for scores in expected.values())
    for index, image in enumerate(X[:6]):
        found = run_all(litert, image)
        steps = range(1, len(expected) + 1) if kind in SLICED else ()
        names = {step_name(k) for k in steps}
        assert set(found) == names | {f"classify_k{k}" for k in CHOSEN[kind]}
        for name, answer in found.items():
            scores = expected[number(name)]
            np.testing.assert_allclose(
                answer["logits"][0],
                scores[index],
                rtol=0,
                atol=1e-5 * np.abs(scores).max(),
            )
            assert answer["label"] == [answer["logits"][0].argmax()]
            assert answer["label"].dtype == np.int32
        largest = found[f"classify_k{CHOSEN[kind][-1]}"]
        for name, value in litert.run("classify", image=image).items():
            np.testing.assert_array_equal(value, largest[name])


@pytest.mark.parametrize("kind", KINDS)
def test_macs(exported, kind):
    """Counted by hand: in the answers, in thousands, the report and the metadata."""
    model, report, litert = exported(kind)
    for name, answer in run_all(litert, X[0]).items():
        macs = hand_macs(kind, name)
        assert answer["executed_macs"].tolist() == [int(macs / 1000 + 0.5)]
        (row,) = (row for row in report.subnetworks if row.signature == name)
        assert (row.macs, row.k) == (macs, number(name))
    metadata, every = litert.metadata, range(1, model.subnetworks + 1)
    wholes = [hand_macs(kind, f"classify_k{k}") for k in every]
    assert metadata["macs_per_subnetwork"] == wholes
    assert metadata["macs"] == report.macs.total == wholes[-1]
    if kind in SLICED:
        steps = [hand_macs(kind, step_name(k)) for k in every]
        assert metadata["macs_per_step"] == steps
    else:  # all but the stem anew
        stem = 27 * KINDS[kind].arguments["width"] * spatial(0)
        again = [macs - stem for macs in wholes[1:]]
        assert metadata["macs_per_step"] == [wholes[0], *again]
    assert (metadata["family"], metadata["subnetworks"]) == (model.family, len(every))
    assert metadata["shared_weights"] is (kind != "folded")


def carried_shapes(kind, j):
    """What step j leaves, by name, that later steps read."""
    stages, count = sizes(kind)
    found = {}
    for stage, ((width, inner, _), blocks) in enumerate(
        zip(stages, blocks_of(kind), strict=True)
    ):
        sides = (1, HEIGHT >> stage, WIDTH >> stage)
        inner, conv = (inner, 3) if inner else (width, 2)
        for block in range(1, blocks + 1):
            name = f"stage{stage + 1}_block{block}_conv"
            found[f"{name}1_{j}"] = (*sides, width // count)
            found[f"{name}{conv}_{j}"] = (*sides, inner // count)
    features = width // count
    if kind != "coarse":
        found[f"pooled_{j}"] = (1, features)
    elif j == 1:  # for the first fine head; the second one adds to the first
        found["pooled_1"] = (1, features)
    else:
        found[f"scores_{j}"] = (1, CLASSES)
    return found


def wanted_shapes(kind, k):
    """What step k reads of earlier steps, by name."""
    found = {}
    for j in range(1, k):
        for name, shape in carried_shapes(kind, j).items():
            if kind != "coarse" or "pooled" not in name or k == 2:
                found[name] = shape
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_signatures(exported, kind):
    """Names, static shapes and dtypes."""
    model, report, litert = exported(kind)
    classifiers = {"classify", *(f"classify_k{k}" for k in CHOSEN[kind])}
    steps = range(1, model.subnetworks + 1) if kind in SLICED else ()
    assert set(litert.signatures) == classifiers | {step_name(k) for k in steps}
    assert {n: set(names) for n, names in report.signatures.items()} == {
        name: set(found.outputs) for name, found in litert.signatures.items()
    }
    image = {"image": (1, HEIGHT, WIDTH, 3)}
    for name, found in litert.signatures.items():
        classes = CLASSES
        if kind == "coarse" and name == "start":
            classes = COARSE
        answer = {"logits": (1, classes), "label": (1,), "executed_macs": (1,)}
        inputs, out = ({n: s.shape for n, s in x.items()} for x in vars(found).values())
        if name in classifiers:
            assert (inputs, out) == (image, answer)
            continue
        k = number(name)
        assert inputs == image | wanted_shapes(kind, k)
        assert out.items() >= answer.items()
        if k < model.subnetworks:
            assert out.items() >= carried_shapes(kind, k).items()
        else:
            assert out == answer
        dtypes = {n: s.dtype for n, s in (found.inputs | found.outputs).items()}
        integers = {"label", "executed_macs"}
        assert {n for n, d in dtypes.items() if d == np.int32} == integers
        assert {n for n, d in dtypes.items() if d == np.float32} == (
            set(dtypes) - integers
        )
    first = flatbuffer.read(litert.path.read_bytes()).signatureDefs[0]
    assert (first.signatureKey, first.subgraphIndex) == (b"classify", 0)


@pytest.mark.parametrize("kind", SLICED)
def test_nothing_is_carried_in_vain(exported, kind):
    _, _, litert = exported(kind)
    left = {n for s in litert.signatures.values() for n in s.outputs} - COMMON
    read = {n for s in litert.signatures.values() for n in s.inputs} - {"image"}
    assert left == read


@pytest.mark.parametrize(
    ("kind", "quantization"),
    [
        *((kind, None) for kind in KINDS),
        ("resnet", "dynamic"),
        ("resnet", "int8"),
        ("coarse", "int8"),
        ("shared", "int8"),
    ],
)
def test_only_builtins(exported, kind, quantization):
    content = exported(kind, quantization).content
    assert only_builtins(content)
    if quantization == "int8":
        assert not float_kernels(flatbuffer.read(content))


class TestWeights:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_signature_reads_its_kernels_alone(self, exported, kind):
        """As many numbers as counted by hand: no kernel of an earlier slice."""
        _, report, litert = exported(kind)
        file = flatbuffer.read(litert.path.read_bytes())
        assert len(report.subnetworks) == len(litert.signatures) - 1
        for row in report.subnetworks:
            every, kernels = constants(file, row.signature)
            parts = [kernels_of_subnetwork(kind, row.k)]
            if not row.signature.startswith("classify"):
                parts = [kernels_of_step(kind, row.k)]
            hand = 4 * sum(size for part in parts for _, size in part)
            assert total_bytes(file, kernels) == hand
            assert row.weight_bytes == total_bytes(file, every)
            assert hand < row.weight_bytes

    @pytest.mark.parametrize("kind", SLICED)
    def test_steps_have_no_kernel_in_common(self, exported, kind):
        """And together they are the largest sub-network's, without earlier heads."""
        model, _, litert = exported(kind)
        file = flatbuffer.read(litert.path.read_bytes())
        seen = set()
        for k in range(1, model.subnetworks + 1):
            _, kernels = constants(file, step_name(k))
            assert not seen & kernels
            seen |= kernels
        for name in litert.signatures:
            assert constants(file, name)[1] <= seen

    def test_are_stored_once(self, exported):
        """File size against what the largest sub-network reads; no bytes twice."""
        for kind in KINDS:
            _, report, litert = exported(kind)
            file = flatbuffer.read(litert.path.read_bytes())
            held = [bytes(b.data) for b in file.buffers if b.data is not None]
            held = [data for data in held if len(data) > 99]
            assert len(held) == len(set(held)), kind
        _, report, _ = exported("resnet")
        kernels = kernels_of_subnetwork("resnet", 3)
        assert report.bytes <= 1.10 * 4 * sum(size for _, size in kernels)

    def test_are_stored_once_when_quantized(self, exported):
        kernels = sum(size for _, size in kernels_of_subnetwork("resnet", 3))
        for quantization in ("dynamic", "int8"):
            file = flatbuffer.read(exported("resnet", quantization).content)
            steps = [constants(file, step_name(k))[1] for k in (1, 2, 3)]
            whole = set().union(*steps)
            assert constants(file, "classify_k3")[1] <= whole
            total = total_bytes(file, whole)
            assert kernels <= total < 1.1 * kernels
            held = sum(len(b.data) for b in file.buffers if b.data is not None)
            assert held < 1.2 * kernels

    def test_of_inclusive_nets(self, exported):
        """Shared ones are stored once, but for sub-network 1's, which are folded."""
        stages, _ = sizes("shared")
        stem, heads = 27 * 7, 3 * 28 * CLASSES
        first = {"shared": 0, "folded": 0}
        for kind in first:
            _, _, litert = exported(kind)
            file = flatbuffer.read(litert.path.read_bytes())
            found = set()
            for k in (1, 2, 3):
                found |= constants(file, f"classify_k{k}")[1]
            first[kind] = total_bytes(file, found)
        whole = sum(size for _, size in kernels_of_subnetwork("shared", 3))
        folded = sum(w * b // 3 + 9 * g * b // 3 for w, b, g in stages)
        assert first["shared"] == 4 * (whole + folded + 2 * 28 * CLASSES)
        apart = [
            sum(size for _, size in kernels_of_subnetwork("shared", k)[1:-1])
            for k in (1, 2, 3)
        ]
        assert first["folded"] == 4 * (stem + sum(apart) + heads)

    def test_none_of_a_later_or_earlier_slice_is_read(self, tmp_path, exported):
        """Slice 2 is NaN: `start` does not see it, nor step 3 with good features."""
        model = made("resnet")
        for variable in model.trainable_weights + model.non_trainable_weights:
            if "preprocessing" in variable.path or "seed" in variable.path:
                continue
            value = keras.ops.convert_to_numpy(variable).copy()
            part = value.shape[-1] // 3
            value[..., part : 2 * part] = np.nan
            variable.assign(value)
        kd.export_tflite(
            model, tmp_path / "nan.tflite", options=kd.AnytimeOptions(subnetworks=[1])
        )
        litert, clean = (
            kd.LiteRTModel(tmp_path / "nan.tflite"),
            exported("resnet").litert,
        )
        expected, kept = run_steps(clean, X[0])
        found, broken = run_steps(litert, X[0])
        alone = litert.run("classify_k1", image=X[0])
        for name, value in expected["start"].items():
            np.testing.assert_array_equal(found["start"][name], value)
            if name in COMMON:
                np.testing.assert_array_equal(alone[name], value)
        assert np.isnan(found["step_2"]["logits"]).all()
        assert np.isnan(found["step_3"]["logits"]).all()
        inputs = clean.signatures["step_3"].inputs
        third = litert.run("step_3", **{n: (kept | {"image": X[0]})[n] for n in inputs})
        for name, value in expected["step_3"].items():
            np.testing.assert_array_equal(third[name], value)


class TestQuantized:
    @pytest.mark.parametrize(
        ("kind", "quantization", "limit"),
        [
            ("resnet", "dynamic", 0.02),
            ("resnet", "int8", 0.1),
            ("coarse", "int8", 0.1),
            ("shared", "int8", 0.1),
        ],
    )
    def test_stays_close(self, exported, truth, kind, quantization, limit):
        """Of the largest score; most labels are the same, in every signature."""
        litert = exported(kind, quantization).litert
        expected, equal = truth(kind), {}
        for index, image in enumerate(X):
            for name, answer in run_all(litert, image).items():
                scores = expected[number(name)]
                np.testing.assert_allclose(
                    answer["logits"][0],
                    scores[index],
                    rtol=0,
                    atol=limit * np.abs(scores).max(),
                )
                same = answer["label"][0] == scores[index].argmax()
                equal.setdefault(name, []).append(same)
        assert all(np.mean(found) >= 0.85 for found in equal.values()), equal

    def test_camera_frames(self, exported):
        litert = exported("resnet", "int8").litert
        for found in litert.signatures.values():
            assert found.inputs["image"].dtype == np.uint8
        first = litert.run("start", image=X[0].astype("uint8"))["logits"]
        np.testing.assert_array_equal(litert.run("start", image=X[0])["logits"], first)
        with pytest.raises(ValueError, match="`image` must hold whole numbers"):
            litert.run("start", image=X[0] + 0.5)

    @pytest.mark.parametrize("kind", ["resnet", "coarse"])
    def test_features_are_carried_as_bytes(self, exported, kind):
        """Four channels to an int32, where that is whole; scores stay float."""
        _, report, litert = exported(kind, "int8")
        plain = exported(kind)
        file = flatbuffer.read(litert.path.read_bytes())
        bytes_in = {row.signature: row.carried_in for row in report.subnetworks}
        for k in (2, 3):
            wanted = wanted_shapes(kind, k)
            inputs = litert.signatures[step_name(k)].inputs
            assert set(inputs) == {"image", *wanted}
            for name, shape in wanted.items():
                packed = shape[-1] % 4 == 0 and "scores" not in name
                assert inputs[name].dtype == (np.int32 if packed else np.float32)
                fours = (*shape[:-1], shape[-1] // 4)
                assert inputs[name].shape == (fours if packed else shape)
            carried = sum(4 * math.prod(inputs[name].shape) for name in wanted)
            assert bytes_in[step_name(k)] == carried
        _, kept = run_steps(litert, X[0])
        _, exact = run_steps(plain.litert, X[0])
        name = "stage3_block1_conv1_1"
        scale, zero = packed_quantization(file, "start", name)
        numbers = kept[name].astype("<i4").view(np.int8).astype("float32")
        assert len(np.unique(numbers)) > 10
        largest = np.abs(exact[name]).max()
        np.testing.assert_allclose(
            (numbers - zero) * scale, exact[name], rtol=0, atol=0.1 * largest
        )

    def test_size(self, exported):
        whole = exported("resnet").report.bytes
        assert exported("resnet", "dynamic").report.bytes < 0.45 * whole
        assert exported("resnet", "int8").report.bytes < 0.45 * whole


def by_hand(litert, truth, count):
    """Largest relative difference and share of equal labels over all signatures."""
    differences, equal = [], []
    for index, image in enumerate(X[:count]):
        for name, answer in run_all(litert, image).items():
            scores = truth[number(name)][:count]
            difference = np.abs(answer["logits"][0] - scores[index]).max()
            differences.append(difference / np.abs(scores).max())
            equal.append(answer["logits"][0].argmax() == scores[index].argmax())
    return max(differences), np.mean(equal)


class TestParity:
    def test_of_a_report(self, exported, truth):
        """By brute force, of a file that differs."""
        _, report, litert = exported("resnet", "int8")
        difference, equal = by_hand(litert, truth("resnet"), 4)
        assert report.parity.samples == 4 and difference > 1e-3
        assert report.parity.max_difference == pytest.approx(difference)
        assert report.parity.argmax_agreement == pytest.approx(equal)
        assert report.parity.decision_agreement is None

    def test_of_another_net(self, exported, truth, net):
        """With the file of other weights: no agreement is found where is none."""
        model, litert = net("resnet"), exported("resnet").litert
        head, before = model.get_layer("heads"), model.get_layer("heads").get_weights()
        columns = np.arange(3 * CLASSES).reshape(3, CLASSES)[:, ::-1].ravel()
        try:
            head.set_weights([value[..., columns] for value in before])
            found = check_parity(model, litert.path, X[:6])
        finally:
            head.set_weights(before)
        turned = {k: scores[:, ::-1] for k, scores in truth("resnet").items()}
        difference, equal = by_hand(litert, turned, 6)
        assert found.max_difference == pytest.approx(difference) and difference > 0.1
        assert found.argmax_agreement == pytest.approx(equal) and equal < 1


def nested_layers(model):
    return [x for x in model.layers if isinstance(x, kd.NestedConv2D)]


class TestTheModel:
    @pytest.mark.parametrize("kind", ["shared", "mixed"])
    def test_is_as_before(self, exported, net, kind):
        model = net(kind)
        exported(kind)
        fresh = made(kind)
        fresh.set_weights(model.get_weights())
        policies = {layer.dtype_policy.name for layer in model.layers if layer.weights}
        if kind == "shared":
            assert len(nested_layers(model)) == 9
            assert _hooks.pieces() == ()
            assert policies == {"float32"}
            np.testing.assert_array_equal(outputs(model, X[:2]), outputs(fresh, X[:2]))
        else:
            assert policies == {"float32", "mixed_bfloat16"}
            difference = np.abs(outputs(model, X[:2]) - outputs(fresh, X[:2])).max()
            assert 0 < difference < 0.2

    def test_is_as_before_after_an_error(self, net, tmp_path, monkeypatch):
        model = net("shared")

        def fail(*args, **kwargs):
            assert set(_hooks.pieces()) == {1, 2, 3}
            raise RuntimeError("in the middle")

        monkeypatch.setattr(model.network, "at", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            kd.export_tflite(model, tmp_path / "a.tflite")
        assert _hooks.pieces() == ()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("nested", ["filters", "inputs", "both", "groups"])
@pytest.mark.parametrize("pieces", [(1,), (2, 3), (1, 2, 3, 4), (4,)])
def test_pieces_compute_the_same(nested, pieces):
    options = {"nested": nested} if nested != "groups" else {"groups": 4}
    layer = kd.NestedConv2D(
        8,
        3,
        subnetworks=4,
        strides=2,
        padding="same",
        activation="relu",
        bias_initializer="uniform",
        **options,
    )
    layer.build((None, 7, 9, 12))
    randomize(layer)
    for k in (1, 2, 3, 4, None):
        channels = 12 if nested == "filters" else 3 * (k or 4)
        x = images(2, 7, 9, channels) / 255
        whole = keras.ops.convert_to_numpy(layer(x, k=k))
        with _hooks.in_pieces(pieces):
            found = keras.ops.convert_to_numpy(layer(x, k=k))
        assert found.shape == whole.shape and whole.any()
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


class TestShareWeights:
    @pytest.mark.parametrize(
        ("subnetworks", "shared"),
        [
            ([1, 3], False),
            ([2, 3], True),
        ],
    )
    def test_what_is_smaller(self, net, subnetworks, shared):
        """Sub-networks between 1 and the largest would copy weights."""
        found = plan(net("shared"), kd.AnytimeOptions(subnetworks=subnetworks))
        traced = found.trace(input_type="float32", int8=False)
        assert traced.metadata["shared_weights"] is shared
        assert list(traced.functions) == [f"classify_k{k}" for k in subnetworks]

    def test_pieces_have_their_normalization_apart(self, exported):
        """A folded sub-network is as many convolutions as Keras has, and few others."""
        stem, blocks = 1, 3
        for kind, extra in (("shared", {1: 0, 2: 1, 3: 2}), ("folded", 3 * [0])):
            file = flatbuffer.read(exported(kind).content)
            for k in (1, 2, 3):
                graph = graph_of(file, f"classify_k{k}")
                names = [flatbuffer.op_name(file, op) for op in graph.operators]
                more = extra[k] if kind == "shared" else 0
                assert names.count("CONV_2D") == stem + 3 * blocks * (1 + more)
                if not more:
                    assert "CONCATENATION" not in names


class TestReport:
    def test_carried_bytes(self, exported):
        """Counted by hand, and none by a sub-network at once."""
        for kind in SLICED:
            model, report, _ = exported(kind)
            for row in report.subnetworks:
                inward, outward = {}, {}
                if not row.signature.startswith("classify"):
                    inward = wanted_shapes(kind, row.k)
                    if row.k < model.subnetworks:
                        outward = carried_shapes(kind, row.k)
                hand = [4 * sum(map(math.prod, x.values())) for x in (inward, outward)]
                found = [row.carried_in, row.carried_out]
                if kind == "coarse":  # see `test_nothing_is_carried_in_vain`
                    assert found[0] == hand[0]
                else:
                    assert found == hand
                assert (row.copy_ms > 0) == (sum(hand) > 0)

    def test_carried_bytes_of_a_resnet(self, exported):
        """24 numbers per pixel, 16 pixels' worth a quarter each; and 48 features."""
        rows = {r.signature: r for r in exported("resnet").report.subnetworks}
        left = 4 * (2 * (96 * 12 + 24 * 24 + 6 * 48) + 48)
        found = [(rows[n].carried_in, rows[n].carried_out) for n in ("start", "step_2")]
        assert found == [(0, left), (left, left)]
        assert (rows["step_3"].carried_in, rows["step_3"].carried_out) == (2 * left, 0)

    def test_own_bytes(self, exported):
        """Head 2 is read by step 2 alone; of 1 and 3 there are sub-networks."""
        rows = {r.signature: r for r in exported("resnet").report.subnetworks}
        found = {name: row.own_bytes for name, row in rows.items() if row.own_bytes}
        assert found == {"step_2": 4 * (96 * CLASSES + CLASSES)}
        for name, row in rows.items():
            assert 0 < row.weight_bytes < exported("resnet").report.bytes, name

    def test_own_bytes_of_inclusive_nets(self, exported):
        """Folded copies are a sub-network's own; pieces are not, but for heads, BN."""
        shared, folded = (
            {r.k: r for r in exported(kind).report.subnetworks}
            for kind in ("shared", "folded")
        )
        for k in (1, 2, 3):
            trunk = kernels_of_subnetwork("folded", k)[1:]
            assert folded[k].own_bytes > 4 * sum(size for _, size in trunk)
        kernels = sum(size for _, size in kernels_of_subnetwork("shared", 2))
        assert shared[2].own_bytes < 2 * kernels < shared[2].weight_bytes

    @pytest.mark.parametrize("kind", ["resnet", "shared"])
    def test_text(self, exported, kind):
        _, report, _ = exported(kind)
        text = str(report).splitlines()
        assert len(report.subnetworks) == {"resnet": 5, "shared": 3}[kind]
        for row in report.subnetworks:
            (line,) = (x for x in text if x.startswith(f"{row.signature}: "))
            assert f" {row.macs:,} MACs, {row.ms:.2f} ms, " in line and row.ms > 0
            assert f"{row.weight_bytes:,} bytes of weights ({row.own_bytes:,} " in line
            carries = f"{row.carried_in:,} bytes in and {row.carried_out:,} out"
            assert (carries in line) == (row.carried_in + row.carried_out > 0)
        assert f"classify: one image took {report.latency_ms:.2f} ms" in "\n".join(text)
        assert report.latency_ms > 0 and report.exit_ms is None
        assert report.bytes == len(exported(kind).content)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], r"`subnetworks` must be a list of .* Received: subnetworks=\[\]"),
        ([0], "`subnetworks` must be a positive integer. Received: subnetworks=0"),
        ([1, 4], "`subnetworks` must be from 1 to 3. Received: subnetworks=4"),
        ([-1], "`subnetworks` must be a positive integer. Received: subnetworks=-1"),
        ([True], "`subnetworks` must be .* Received: subnetworks=True"),
        ([2.0], "`subnetworks` must be .* Received: subnetworks=2.0"),
        ("2", "`subnetworks` must be .* Received: subnetworks='2'"),
        (2, "`subnetworks` must be a list of .* Received: subnetworks=2"),
    ],
)
def test_bad_subnetworks(net, tmp_path, wanted, message):
    with pytest.raises(ValueError, match=message):
        kd.export_tflite(
            net("resnet"),
            tmp_path / "a.tflite",
            options=kd.AnytimeOptions(subnetworks=wanted),
        )
    assert not list(tmp_path.iterdir())


def test_arguments_of_other_nets(net, tmp_path):
    plain = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    for model, wanted, options in (
        (net("resnet"), "Anytime", kd.GateOptions(group_size=4)),
        (plain, "Gate", kd.AnytimeOptions(subnetworks=[1])),
        (plain, "Gate", 4),
    ):
        message = rf"`options` must be `kd.{wanted}Options\(...\)`.*Received: options="
        with pytest.raises(ValueError, match=message):
            kd.export_tflite(model, tmp_path / "a.tflite", options=options)
    with pytest.raises(ValueError, match="`share_weights` is for an I-ResNeXt only"):
        options = kd.AnytimeOptions(share_weights=True)
        kd.export_tflite(net("resnet"), tmp_path / "a.tflite", options=options)
    assert not list(tmp_path.iterdir())


def test_labels_are_counted_in_classes(net, tmp_path):
    with pytest.raises(ValueError, match="must name the model's 5 classes.*: 3 names"):
        kd.export_tflite(net("resnet"), tmp_path / "a.tflite", labels=list("abc"))


def test_wrong_features_are_refused(exported):
    litert, other = exported("resnet").litert, exported("coarse").litert
    _, kept = run_steps(litert, X[0])
    good = {name: kept[name] for name in litert.signatures["step_2"].inputs}
    short = {name: x for name, x in good.items() if name != "pooled_1"}
    cases = {
        r"inputs of signature 'step_2' must be \['image', 'pooled_1', .*Received: .": (
            short
        ),
        r"Received: \['extra', 'image', 'pooled_1'": {**good, "extra": X[0]},
        r"Input `pooled_1` must have the shape \(1, 48\).*shape=\(1, 47\)": {
            **good,
            "pooled_1": good["pooled_1"][:, :-1],
        },
        r"Input `stage3_block1_conv2_1` must have the shape \(1, 2, 3, 48\)": {
            **good,
            "stage3_block1_conv2_1": good["stage3_block1_conv2_1"][0, 0],
        },
        "must be convertible to float32": {
            **good,
            "pooled_1": np.full((1, 48), "a"),
        },
    }
    for message, inputs in cases.items():
        with pytest.raises(ValueError, match=message):
            litert.run("step_2", **inputs)
    _, theirs = run_steps(other, X[0])
    names = other.signatures["step_2"].inputs
    with pytest.raises(ValueError, match="inputs of signature 'step_2' must be"):
        litert.run("step_2", **{name: theirs[name] for name in names})


def test_under_mixed_precision(tmp_path, dtype_policy):
    """As a net is exported in the session that has trained it."""
    dtype_policy("mixed_bfloat16")
    options = {"width": 4, "subnetworks": 1, "include_preprocessing": False}
    model = randomize(kd.sliced_resnet(**BASE, **options))
    kd.export_tflite(model, tmp_path / "a.tflite")
    dtype_policy("float32")
    clean = kd.sliced_resnet(**BASE, **options, classifier_activation=None)
    clean.set_weights(model.get_weights())
    expected = outputs(clean, X[:3])[:, 0]
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    for name in ("start", "classify_k1"):
        found = [litert.run(name, image=image)["logits"][0] for image in X[:3]]
        limit = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def test_ten_steps(tmp_path):
    """Step 10 comes after step 9, in the report and in the comparison with Keras."""

    def step(k):
        def function(image, **kept):
            (x,) = kept.values() or [tf.reduce_sum(image, [1, 2])]
            x = x + tf.constant([[float(k)]])
            answer = {"logits": x, "label": tf.argmax(x, -1, tf.int32)}
            return {**answer, f"x_{k}": x + 1.0} if k < 10 else answer

        names = {f"x_{k - 1}": [1, 1]} if k > 1 else {}
        spec = {name: tf.TensorSpec(size, name=name) for name, size in names.items()}
        image = tf.TensorSpec([1, 2, 2, 1], name="image")
        return tf.function(function, autograph=False).get_concrete_function(
            image=image, **spec
        )

    file = convert({step_name(k): step(k) for k in range(1, 11)}, None)
    (tmp_path / "a.tflite").write_bytes(flatbuffer.write(file))
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    x = np.ones((2, 2, 2, 1), "float32")
    answers = {k: np.full((2, 1), 4.0 + k * (k + 1) / 2 + k - 1) for k in range(1, 11)}
    profile = kd.CostTable((), per_subnetwork=(0,) * 10, per_step=tuple(range(1, 11)))
    rows = subnetwork_costs(litert, file, profile, x[0])
    assert {row.signature: (row.k, row.macs) for row in rows} == {
        step_name(k): (k, k) for k in range(1, 11)
    }
    network = types.SimpleNamespace(at=lambda k, images: answers[k])
    assert network_parity(network, litert, x).max_difference < 1e-6


def test_some_steps_of_all(tmp_path):
    model = randomize(kd.sliced_resnet(**BASE, width=36, subnetworks=3))
    path = tmp_path / "net.tflite"
    with pytest.raises(ValueError, match="every step before its last one, 'step_3'"):
        kd.export_tflite(model, path, signatures=["start", "step_3"])
    report = kd.export_tflite(
        model, path, signatures=["step_2", "start"], parity_data=X[:2]
    )
    assert sorted(report.signatures) == ["start", "step_2"]
    assert [row.signature for row in report.subnetworks] == ["start", "step_2"]
    assert report.parity.max_difference < 1e-5
    runner = kd.AnytimeRunner(path, warmup=1)
    answer = runner.refine(runner.start(X[0]))
    np.testing.assert_allclose(
        answer.logits, model.predict_at(2, X[:1])[0], rtol=1e-4, atol=1e-5
    )
