"""Views are judged by running them, in files that LiteRT has verified."""

import os

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from keras_dyngate.export import views  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

WEIGHTS = np.arange(12, dtype="float32").reshape(3, 4)
X = np.array([[1.0, 2.0, 3.0]], "float32")


def whole(x, limit):
    """`sum` needs the IF, `far` does not; `exponent` needs neither it nor the weights."""
    y = x @ tf.constant(WEIGHTS)
    y = tf.cond(limit[0] > 5, lambda: y + 10.0, lambda: y + 20.0)
    return {"sum": y, "far": tf.cast(limit, tf.int32), "exponent": tf.exp(x)}


def doubled(x):
    return {"y": x @ tf.constant(WEIGHTS) * 2.0}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    x = tf.TensorSpec([1, 3], tf.float32)
    limit = tf.TensorSpec([1], tf.float32)
    signatures = {
        "doubled": tf.function(doubled).get_concrete_function(x=x),
        "whole": tf.function(whole).get_concrete_function(x=x, limit=limit),
    }
    folder = os.fspath(tmp_path_factory.mktemp("saved"))
    tf.saved_model.save(tf.Module(), folder, signatures=signatures)
    return tf.lite.TFLiteConverter.from_saved_model(
        folder, signature_keys=list(signatures)
    ).convert()


@pytest.fixture
def model(content):
    return flatbuffer.read(content)


def run(model, name, **inputs):
    content = flatbuffer.write(model)
    runner = Interpreter(model_content=content).get_signature_runner(name)
    assert set(runner.get_input_details()) == set(inputs)
    return runner(**{k: np.asarray(v, "float32") for k, v in inputs.items()})


def expected(limit):
    return {
        "sum": X @ WEIGHTS + (10 if limit > 5 else 20),
        "far": np.array([limit], "int32"),
        "exponent": np.exp(X),
    }


def assert_says(found, limit, names=("sum", "far", "exponent")):
    assert set(found) == set(names)
    for name in names:
        np.testing.assert_allclose(found[name], expected(limit)[name], rtol=1e-6)


def names_of(model, signature):
    graph = model.subgraphs[views.signature(model, signature).subgraphIndex]
    return [flatbuffer.op_name(model, operator) for operator in graph.operators]


def test_a_signature_is_found_by_name(model):
    assert views.signature(model, "whole").signatureKey == b"whole"
    with pytest.raises(KeyError, match="missing"):
        views.signature(model, "missing")


@pytest.mark.parametrize(
    "kept, absent",
    [(("sum",), {"EXP"}), (("exponent", "far"), {"IF", "FULLY_CONNECTED"})],
)
def test_a_view_computes_its_outputs_only(model, kept, absent):
    graphs, before = len(model.subgraphs), names_of(model, "whole")
    assert absent & set(before)
    views.add_view(model, "whole", "part", kept)
    for limit in (4, 6):
        assert_says(run(model, "part", x=X, limit=[limit]), limit, kept)
        assert_says(run(model, "whole", x=X, limit=[limit]), limit)
    assert not absent & set(names_of(model, "part"))
    assert names_of(model, "whole") == before
    assert len(model.subgraphs) == graphs + 1, "branches are called by both"


@pytest.mark.parametrize("share", [False, True])
def test_a_view_of_all_may_be_a_second_name(model, share):
    views.add_view(model, "whole", "again", share=share)
    places = {views.signature(model, name).subgraphIndex for name in ("whole", "again")}
    assert len(places) == (1 if share else 2)
    for name in ("whole", "again"):
        assert_says(run(model, name, x=X, limit=[6]), 6)
    views.add_view(model, "whole", "part", ("far",), share=share)
    assert_says(run(model, "part", x=X, limit=[6]), 6, ("far",))


def test_a_frozen_input_is_a_constant_of_its_view(model):
    for limit in (4, 6):
        name = f"at_{limit}"
        views.add_view(model, "whole", name)
        views.freeze_input(model, name, "limit", np.array([limit], "float32"))
    for limit in (4, 6):
        assert_says(run(model, f"at_{limit}", x=X), limit)
        assert_says(run(model, "whole", x=X, limit=[limit]), limit)
    views.freeze_input(model, "whole", "limit", np.array([7], "float32"))
    assert_says(run(model, "whole", x=X), 7)
    assert_says(run(model, "at_4", x=X), 4)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("default", ["doubled", "whole", "again", "part"])
def test_the_default_runs_without_a_name(model, default, share):
    views.add_view(model, "whole", "again", share=share)
    views.add_view(model, "whole", "part", ("sum",))
    views.make_default(model, default)
    first = model.signatureDefs[0]
    assert (first.signatureKey, first.subgraphIndex) == (default.encode(), 0)
    interpreter = Interpreter(model_content=flatbuffer.write(model))
    assert len(interpreter.get_output_details()) == len(first.outputs)
    assert sorted(interpreter.get_signature_list()) == sorted(
        ["doubled", "whole", "again", "part"]
    )
    np.testing.assert_allclose(run(model, "doubled", x=X)["y"], 2 * X @ WEIGHTS)
    assert_says(run(model, "whole", x=X, limit=[6]), 6)
    assert_says(run(model, "again", x=X, limit=[4]), 4)
    assert_says(run(model, "part", x=X, limit=[4]), 4, ("sum",))


def test_what_is_left_out_takes_its_weights_along(model):
    whole_size = len(flatbuffer.write(model))
    views.add_view(model, "whole", "part", ("sum",))
    views.keep_signatures(model, ["part"])
    assert [entry.signatureKey for entry in model.signatureDefs] == [b"part"]
    assert model.signatureDefs[0].subgraphIndex == 0
    assert len(model.subgraphs) == 3, "the view and the two sides of its IF"
    assert len(flatbuffer.write(model)) < whole_size
    np.testing.assert_allclose(
        run(model, "part", x=X, limit=np.float32([9]))["sum"], X @ WEIGHTS + 10
    )
    np.testing.assert_allclose(
        run(model, "part", x=X, limit=np.float32([0]))["sum"], X @ WEIGHTS + 20
    )


def test_without_the_branches(model):
    views.keep_signatures(model, ["doubled"])
    assert len(model.subgraphs) == 1
    np.testing.assert_allclose(run(model, "doubled", x=X)["y"], 2 * X @ WEIGHTS)
