import itertools

import keras
import numpy as np
import pytest

from keras_dyngate import SlicedConv2D, SlicedDense
from keras_dyngate.layers.slices import (
    TriangularInitializer,
    slice_range,
    triangular_mask,
)

to_numpy = keras.ops.convert_to_numpy
ROWS, COLUMNS = [64, 64, 64], [48, 48, 48]


def drawn(initializer, window=(), rows=ROWS, columns=COLUMNS, dtype=None):
    shape = (*window, sum(rows), sum(columns))
    return to_numpy(TriangularInitializer(initializer, rows, columns)(shape, dtype))


def blocks(kernel, rows=ROWS, columns=COLUMNS):
    """(read, masked) rows of each output slice."""
    found = []
    for j, width in enumerate(columns):
        own = kernel[..., sum(columns[:j]) : sum(columns[: j + 1])]
        assert own.shape[-1] == width
        found.append(np.split(own, [sum(rows[: j + 1])], axis=-2))
    return found


def correlation(first, second):
    size = min(first.size, second.size)
    return np.corrcoef(first.ravel()[:size], second.ravel()[:size])[0, 1]


class TestRange:
    def test_all_by_default(self):
        assert slice_range(1, None, 4) == (1, 4)
        assert slice_range(3, None, 4) == (3, 4)
        assert slice_range(2, 2, 4) == (2, 2)
        assert slice_range(1, None, 1) == (1, 1)

    @pytest.mark.parametrize(
        ("first", "last", "message"),
        [
            (1, 5, "`last` must be from 1 to 4. Received: last=5"),
            (1, 0, "`last` must be a positive integer. Received: last=0"),
            (1, True, "`last` must be a positive integer. Received: last=True"),
            (1, 2.0, "`last` must be a positive integer. Received: last=2.0"),
            (0, None, "`first` must be a positive integer. Received: first=0"),
            (3, 2, "`first` must be from 1 to 2. Received: first=3"),
            (5, None, "`first` must be from 1 to 4. Received: first=5"),
            (-1, 2, "`first` must be a positive integer. Received: first=-1"),
            (None, 2, "`first` must be a positive integer. Received: first=None"),
        ],
    )
    def test_errors(self, first, last, message):
        with pytest.raises(ValueError, match=message):
            slice_range(first, last, 4)


class TestMask:
    @pytest.mark.parametrize(
        ("rows", "columns"),
        [([2, 3, 1], [1, 2, 2]), ([2, 3, 1], [3]), ([1, 1], [4, 1]), ([5], [2])],
    )
    def test_by_loops(self, rows, columns):
        """Columns are of the last slices where there are fewer of them than rows."""
        source = [i for i, n in enumerate(rows) for _ in range(n)]
        first = len(rows) - len(columns)
        target = [first + j for j, n in enumerate(columns) for _ in range(n)]
        expected = [[float(i <= j) for j in target] for i in source]
        mask = triangular_mask(rows, columns)
        assert mask.dtype == "float32"
        np.testing.assert_array_equal(mask, expected)

    def test_of_ones_is_the_lower_triangle_transposed(self):
        mask = triangular_mask([1] * 5, [1] * 5)
        np.testing.assert_array_equal(mask, np.tril(np.ones((5, 5))).T)

    def test_share_of_a_block(self):
        """K (K + 1) / 2 of K^2 blocks."""
        mask = triangular_mask([4] * 8, [2] * 8)
        assert mask.sum() == 8 * 36 and mask.size == 8 * 64


class TestInitializer:
    @pytest.mark.parametrize("window", [(), (3, 3)])
    def test_spread_is_that_of_the_inputs_a_slice_reads(self, window):
        """As of K layers of their own: variance 2 / fan-in, and none above."""
        kernel = drawn(keras.initializers.HeNormal(seed=1), window)
        for j, (read, masked) in enumerate(blocks(kernel), 1):
            fan_in = np.prod(window) * 64 * j
            assert read.shape == (*window, 64 * j, 48)
            np.testing.assert_allclose(read.std(), (2 / fan_in) ** 0.5, rtol=0.05)
            assert abs(read.mean()) < 0.1 * read.std()
            assert masked.size == np.prod(window) * 64 * (3 - j) * 48
            assert not masked.any()

    def test_limits_of_the_papers_initializer(self):
        """Uniform within 1 / sqrt(fan-in): scale 1/3 by fan-in."""
        initializer = keras.initializers.VarianceScaling(
            1 / 3, "fan_in", "uniform", seed=0
        )
        for j, (read, _) in enumerate(blocks(drawn(initializer)), 1):
            limit = (64 * j) ** -0.5
            assert 0.99 * limit < abs(read).max() <= limit * (1 + 1e-6)

    @pytest.mark.parametrize("layer", [SlicedConv2D, SlicedDense])
    def test_spread_within_layers(self, layer):
        initializer = keras.initializers.HeNormal(seed=2)
        arguments = ((144, 1), (144,))[layer is SlicedDense]
        made = layer(*arguments, slices=3, kernel_initializer=initializer)
        made.build((None, *((5, 5, 192), (192,))[layer is SlicedDense]))
        kernel = to_numpy(made.kernel).reshape(192, 144)
        for j, (read, masked) in enumerate(blocks(kernel), 1):
            np.testing.assert_allclose(read.std(), (2 / (64 * j)) ** 0.5, rtol=0.05)
            assert not masked.any()
        assert made.kernel_initializer is initializer

    @pytest.mark.parametrize("seed", [None, 0, 7, "generator"])
    def test_slices_are_no_copies_of_each_other(self, seed):
        """Neither row by row nor number by number."""
        if seed == "generator":
            seed = keras.random.SeedGenerator(3)
        found = [b for b, _ in blocks(drawn(keras.initializers.HeNormal(seed=seed)))]
        for first, second in itertools.combinations(found, 2):
            rows = first.shape[0]
            assert abs(correlation(first, second[:rows])) < 0.1
            assert abs(correlation(first, second[-rows:])) < 0.1
            assert abs(correlation(first, second)) < 0.1

    def test_unequal_slices(self):
        rows, columns = [1, 3, 2], [2, 1, 4]
        kernel = drawn(keras.initializers.HeNormal(), (3, 2), rows, columns)
        assert kernel.shape == (3, 2, 6, 7)
        mask = np.broadcast_to(triangular_mask(rows, columns), kernel.shape)
        np.testing.assert_array_equal(kernel != 0, mask == 1)

    def test_int_seeds_reproduce(self):
        first = drawn(keras.initializers.HeNormal(seed=5))
        np.testing.assert_array_equal(first, drawn(keras.initializers.HeNormal(seed=5)))
        other = drawn(keras.initializers.HeNormal(seed=6))
        assert (first != other)[first != 0].mean() > 0.99

    def test_drawing_twice_draws_the_same_from_an_int_seed(self):
        """As an initializer of Keras does, whose configuration stays as it is."""
        given = keras.initializers.HeNormal(seed=5)
        before = given.get_config()
        made = TriangularInitializer(given, ROWS, COLUMNS)
        shape = (sum(ROWS), sum(COLUMNS))
        np.testing.assert_array_equal(to_numpy(made(shape)), to_numpy(made(shape)))
        assert given.get_config() == before

    def test_global_seed_reproduces(self):
        found = []
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(seed)
            found.append(drawn(keras.initializers.HeNormal()))
        np.testing.assert_array_equal(found[0], found[1])
        assert (found[0] != found[2]).any()

    def test_seed_generators_go_on(self):
        initializer = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(4))
        assert (drawn(initializer) != drawn(initializer)).any()
        again = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(4))
        fresh = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(4))
        np.testing.assert_array_equal(drawn(again), drawn(fresh))

    def test_constants_and_functions(self):
        expected = triangular_mask([2, 2], [1, 3])
        for initializer in (
            keras.initializers.Ones(),
            keras.initializers.Constant(1.0),
            lambda shape, dtype=None: keras.ops.ones(shape, dtype),
        ):
            found = drawn(initializer, rows=[2, 2], columns=[1, 3])
            np.testing.assert_array_equal(found, expected)

    def test_initializer_of_a_user_keeps_its_arguments(self):
        """One that no file needs to hold, hence without `get_config`."""

        class Fives(keras.initializers.Initializer):
            def __init__(self, value=1.0):
                self.value = value

            def __call__(self, shape, dtype=None):
                return keras.ops.full(shape, self.value, dtype)

        found = drawn(Fives(5.0), rows=[2, 2], columns=[1, 3])
        np.testing.assert_array_equal(found, 5 * triangular_mask([2, 2], [1, 3]))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_dtype(self, dtype):
        made = TriangularInitializer(keras.initializers.HeNormal(), [4, 4], [2, 2])
        found = made((8, 4), dtype=dtype)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
