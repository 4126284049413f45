import inspect
import json

import keras
import numpy as np
import pytest

from keras_dyngate import HierarchicalTaxonomy

# From the labels of the dataset itself.
CIFAR100 = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]
SMALL = HierarchicalTaxonomy(
    [1, 0, 1, 2],
    fine_names=["cat", "car", "dog", "oak"],
    coarse_names=["vehicle", "animal", "plant"],
)


class TestCifar100:
    TAXONOMY = HierarchicalTaxonomy.cifar100()

    def test_map(self):
        assert self.TAXONOMY.coarse_of_fine.tolist() == CIFAR100
        assert (self.TAXONOMY.fine_classes, self.TAXONOMY.coarse_classes) == (100, 20)
        assert np.bincount(self.TAXONOMY.coarse_of_fine).tolist() == 20 * [5]

    def test_names(self):
        """Alphabetical, as in the dataset's list of names."""
        fine, coarse = self.TAXONOMY.fine_names, self.TAXONOMY.coarse_names
        assert fine == sorted(fine) and len(set(fine)) == 100
        assert coarse == sorted(coarse) and len(set(coarse)) == 20
        pairs = {name: coarse[i] for name, i in zip(fine, CIFAR100, strict=True)}
        assert fine[:4] == ["apple", "aquarium_fish", "baby", "bear"]
        assert fine[39] == "keyboard" and fine[99] == "worm"
        assert pairs["apple"] == "fruit_and_vegetables"
        assert pairs["otter"] == "aquatic_mammals"
        assert pairs["lawn_mower"] == "vehicles_2"
        assert pairs["pickup_truck"] == "vehicles_1"
        assert pairs["skyscraper"] == "large_man-made_outdoor_things"
        assert pairs["spider"] == "non-insect_invertebrates"


class TestFromLabels:
    def test_reads_the_map(self):
        """From the two label modes of a dataset: columns of many samples."""
        fine = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 3))
        coarse = np.array(CIFAR100)[fine]
        for shape in ((300,), (300, 1)):
            found = HierarchicalTaxonomy.from_labels(
                fine.reshape(shape).astype("uint8"), coarse.reshape(shape)
            )
            assert found.coarse_of_fine.tolist() == CIFAR100
            assert found.fine_names is None and found.coarse_names is None

    def test_names(self):
        found = HierarchicalTaxonomy.from_labels(
            [3, 0, 1, 2, 0], [2, 1, 0, 1, 1], SMALL.fine_names, SMALL.coarse_names
        )
        assert found.get_config() == SMALL.get_config()

    @pytest.mark.parametrize(
        ("fine", "coarse", "message"),
        [
            ([0, 1, 0], [0, 1, 1], r"one coarse class. .*the fine classes \[0\]"),
            ([0, 1, 0, 1], [0, 1, 1, 0], r"several for the fine classes \[0, 1\]"),
            ([0, 2], [0, 1], r"`fine` must hold every class .*without \[1\]"),
            ([1, 2], [0, 1], r"`fine` must hold every class .*without \[0\]"),
            ([0, 1], [0, 2], r"`coarse_of_fine` must name every .*without \[1\]"),
            ([0, 1], [0], "same samples. Received: 2 and 1 labels"),
            ([], [], "same samples. Received: 0 and 0 labels"),
            ([0.0, 1.0], [0.0, 1.0], "Received"),
            ([0, 1], [-1, 0], "Received"),
            ([-1, 0, 1], [0, 0, 1], "`fine` must .*Received: "),
        ],
    )
    def test_bad_labels(self, fine, coarse, message):
        with pytest.raises(ValueError, match=message):
            HierarchicalTaxonomy.from_labels(fine, coarse)


class TestMap:
    def test_labels_of_any_shape(self):
        for labels, expected in (
            ([0, 1, 2, 3], [1, 0, 1, 2]),
            ([[3], [1]], [[2], [0]]),
            (2, 1),
            (np.array([3, 3], "uint8"), [2, 2]),
            (np.zeros((0,), "int64"), []),
        ):
            found = SMALL.coarse_of(labels)
            assert found.dtype == "int32"
            np.testing.assert_array_equal(found, expected)

    def test_labels_of_a_backend(self):
        found = SMALL.coarse_of(keras.ops.convert_to_tensor([3, 1]))
        np.testing.assert_array_equal(found, [2, 0])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 4], "from 0 to 3. Received: dtype int64 from 0 to 4"),
            ([-1, 0], "from 0 to 3. Received: dtype int64 from -1 to 0"),
            ([0.0, 1.0], "from 0 to 3. Received: dtype float64"),
            ([True], "from 0 to 3. Received: dtype bool"),
            (["cat"], "from 0 to 3. Received: dtype <U3"),
            (None, "from 0 to 3. Received: dtype object"),
        ],
    )
    def test_bad_labels(self, labels, message):
        with pytest.raises(ValueError, match="`labels` must be class ind.*" + message):
            SMALL.coarse_of(labels)

    def test_matrix(self):
        matrix = SMALL.matrix()
        assert matrix.dtype == "float32"
        expected = [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
        np.testing.assert_array_equal(matrix, expected)
        assert HierarchicalTaxonomy.cifar100().matrix().sum(axis=0).tolist() == 20 * [5]

    def test_sizes(self):
        assert (SMALL.fine_classes, SMALL.coarse_classes) == (4, 3)
        single = HierarchicalTaxonomy([0])
        assert (single.fine_classes, single.coarse_classes) == (1, 1)

    def test_cannot_be_changed_from_outside(self):
        given, names = np.array([0, 1, 0]), ["a", "b", "c"]
        taxonomy = HierarchicalTaxonomy(given, names)
        given[:] = 0
        names[0] = "z"
        taxonomy.coarse_of_fine[:] = 0
        taxonomy.matrix()[:] = 0
        taxonomy.get_config()["coarse_of_fine"][1] = 0
        assert taxonomy.coarse_of_fine.tolist() == [0, 1, 0]
        assert taxonomy.fine_names == ["a", "b", "c"]
        assert taxonomy.matrix().sum() == 3


@pytest.mark.parametrize(
    "given", [(0, 1, 1), np.array([0, 1, 1], "uint8"), np.array([0, 1, 1])]
)
def test_kinds_of_maps(given):
    taxonomy = HierarchicalTaxonomy(given)
    assert taxonomy.coarse_of_fine.dtype == "int32"
    assert taxonomy.get_config()["coarse_of_fine"] == [0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"one class index per fine class. Received: coarse_of_fine=\[\]"),
        (([0.0, 1.0],), "`coarse_of_fine` must be one class index per fine class"),
        (([True, False],), "`coarse_of_fine` must be one class index per fine class"),
        (([[0, 1]],), r"Received: coarse_of_fine=\[\[0, 1\]\]"),
        ((None,), "Received: coarse_of_fine=None"),
        (("01",), "Received: coarse_of_fine='01'"),
        (({0: 1},), "Received: coarse_of_fine={0: 1}"),
        (([0, 2, 2],), r"every coarse class .*a map to \[0, 2\], without \[1\]"),
        (([1, 2],), r"every coarse class .*a map to \[1, 2\], without \[0\]"),
        (([0, -1],), r"every coarse class .*Received: a map to \[-1, 0\]"),
        (([0, 1], ["a"]), r"`fine_names` must be 2 names. Received: \['a'\]"),
        (([0, 0], None, ["a", "b"]), r"`coarse_names` must be 1 names. Received"),
        (([0, 1], "ab"), "`fine_names` must be 2 names. Received: 'ab'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalTaxonomy(*arguments)


@pytest.mark.parametrize("taxonomy", [SMALL, HierarchicalTaxonomy([0, 1, 1])])
def test_config(taxonomy):
    config = taxonomy.get_config()
    assert set(config) == set(inspect.signature(HierarchicalTaxonomy).parameters)
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(taxonomy)))
    assert written["registered_name"] == "keras_dyngate>HierarchicalTaxonomy"
    again = keras.saving.deserialize_keras_object(written)
    assert type(again) is HierarchicalTaxonomy and again.get_config() == config
    np.testing.assert_array_equal(again.coarse_of_fine, taxonomy.coarse_of_fine)
