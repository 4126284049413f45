import dataclasses
import json

import keras
import pytest

import keras_dyngate as kd
from keras_dyngate.models.anytime.config import AnytimeConfig

TAXONOMY = kd.HierarchicalTaxonomy([0, 1, 1, 0, 2], coarse_names=list("abc"))
PLAIN = {"family": "sliced_resnet", "blocks": 2, "width": 12, "subnetworks": 3}
GROUPED = {
    "family": "sliced_resnext",
    "blocks": 1,
    "width": 12,
    "branch_width": 2,
    "cardinality": 6,
    "subnetworks": 3,
}
INCLUSIVE = {**GROUPED, "family": "inclusive_resnext"}
LARGE = {"stem": "imagenet", "width": 16, "subnetworks": 4}


def test_defaults():
    config = AnytimeConfig(**PLAIN)
    assert config.blocks == (2, 2, 2)
    assert (config.input_shape, config.classes) == ((32, 32, 3), 10)
    assert (config.stem, config.heads, config.execution) == (
        "cifar",
        "private",
        "masked",
    )
    assert (config.channels, config.stem_width) == (3, 12)
    assert config.levels == [10, 10, 10]
    assert config.classifier_activation == "softmax"
    assert config.include_preprocessing is True
    assert config.mean == (0.485, 0.456, 0.406) and config.std == (0.229, 0.224, 0.225)


def test_imagenet_stem():
    config = AnytimeConfig(**{**PLAIN, **LARGE})
    assert config.blocks == (2, 2, 2, 2)
    assert (config.input_shape, config.classes) == ((224, 224, 3), 1000)
    assert config.stem_width == 4


def test_what_is_given_is_kept():
    config = AnytimeConfig(
        **{**PLAIN, "blocks": [1, 3, 2]},
        input_shape=[20, 24, 5],
        classes=7,
        include_preprocessing=False,
    )
    assert config.blocks == (1, 3, 2)
    assert (config.input_shape, config.classes) == ((20, 24, 5), 7)
    assert config.channels == 5


class TestLevels:
    def test_classes_of_the_taxonomy(self):
        config = AnytimeConfig(**PLAIN, taxonomy=TAXONOMY)
        assert (config.classes, config.levels) == (5, [5, 5, 5])

    @pytest.mark.parametrize(
        ("coarse", "levels"), [(1, [3, 5, 5]), (2, [3, 3, 5]), (3, [3, 3, 3])]
    )
    def test_coarse_heads(self, coarse, levels):
        config = AnytimeConfig(**PLAIN, taxonomy=TAXONOMY, coarse_heads=coarse)
        assert (config.classes, config.levels) == (5, levels)

    @pytest.mark.parametrize(
        "made", [TAXONOMY.get_config(), keras.saving.serialize_keras_object(TAXONOMY)]
    )
    def test_from_its_config(self, made):
        config = AnytimeConfig(**PLAIN, taxonomy=made, coarse_heads=1)
        assert config.taxonomy.get_config() == TAXONOMY.get_config()


@pytest.mark.parametrize(
    "arguments",
    [
        PLAIN,
        {**GROUPED, **LARGE, "cardinality": 8},
        {**INCLUSIVE, "taxonomy": TAXONOMY, "coarse_heads": 2},
        {
            **PLAIN,
            "blocks": (1, 2, 3),
            "input_shape": (9, 11, 1),
            "classes": 4,
            "classifier_activation": None,
            "heads": "shared",
            "execution": "sliced",
            "include_preprocessing": False,
            "mean": (0.1, 0.2, 0.3),
            "std": [0.4, 0.5, 0.6],
        },
    ],
)
def test_dict_round_trip(arguments):
    config = AnytimeConfig(**arguments)
    written = json.loads(json.dumps(config.to_dict()))
    assert set(written) == {field.name for field in dataclasses.fields(config)}
    for name, value in arguments.items():
        if name not in ("blocks", "taxonomy"):
            assert written[name] == (list(value) if type(value) is tuple else value)
    again = AnytimeConfig(**written)
    assert again.to_dict() == config.to_dict()
    left, right = (
        dataclasses.replace(made, taxonomy=None, coarse_heads=0)
        for made in (again, config)
    )
    assert left == right


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AnytimeConfig(**PLAIN).width = 24


class TestWhatMustDivide:
    """K divides what is cut, and nothing else."""

    def test_plain_blocks(self):
        with pytest.raises(
            ValueError,
            match="`subnetworks` must divide the width. "
            "Received: subnetworks=5 for 12 width",
        ):
            AnytimeConfig(**{**PLAIN, "subnetworks": 5})

    def test_stem(self):
        """A quarter of the width is too thin, the width itself is not."""
        arguments = {**PLAIN, **LARGE, "subnetworks": 8}
        with pytest.raises(
            ValueError,
            match="`subnetworks` must divide the channels of the stem. "
            "Received: subnetworks=8 for 4",
        ):
            AnytimeConfig(**arguments)
        AnytimeConfig(**{**arguments, "stem": "cifar"})
        AnytimeConfig(**{**arguments, "width": 32})

    @pytest.mark.parametrize("arguments", [GROUPED, INCLUSIVE])
    def test_cardinality(self, arguments):
        with pytest.raises(
            ValueError,
            match="`subnetworks` must divide the cardinality. "
            "Received: subnetworks=4 for 6",
        ):
            AnytimeConfig(**{**arguments, "subnetworks": 4})

    def test_grouped_width(self):
        with pytest.raises(ValueError, match="must divide the width. .*=3 for 16"):
            AnytimeConfig(**{**GROUPED, "width": 16})
        AnytimeConfig(**{**INCLUSIVE, "width": 16})  # not cut here

    @pytest.mark.parametrize("arguments", [PLAIN, GROUPED, INCLUSIVE])
    def test_quarter(self, arguments):
        arguments = {**arguments, "stem": "imagenet", "width": 18}
        with pytest.raises(
            ValueError, match="`stem` must divide the width. Received: stem=4 for 18"
        ):
            AnytimeConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"family": "resnet"},
            "`family` must be one of 'inclusive_resnext', .*resnet'",
        ),
        ({"stem": "mnist"}, "`stem` must be one of .*Received: stem='mnist'"),
        ({"input_shape": (8, 8)}, r"`input_shape` must be .*Received: .*\(8, 8\)"),
        ({"input_shape": (8, 8, None)}, "`input_shape` must be .* known channels"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: classes=0"),
        ({"classes": True}, "`classes` must be a positive integer"),
        ({"width": 0}, "`width` must be a positive integer. Received: width=0"),
        ({"width": None}, "`width` must be a positive integer. Received: width=None"),
        ({"width": 12.0}, "`width` must be a positive integer. Received: width=12.0"),
        ({"subnetworks": 0}, "`subnetworks` must be a positive integer. .*=0"),
        ({"subnetworks": True}, "`subnetworks` must be a positive integer. .*=True"),
        ({"subnetworks": 3.0}, "`subnetworks` must be a positive integer. .*=3.0"),
        ({"subnetworks": -1}, "`subnetworks` must be a positive integer. .*=-1"),
        ({"subnetworks": "3"}, "`subnetworks` must be a positive integer. .*='3'"),
        ({"blocks": 0}, "`blocks` must be a positive integer. Received: blocks=0"),
        ({"blocks": True}, "`blocks` must be a positive integer. .*blocks=True"),
        ({"blocks": (1, 0, 1)}, "`blocks` must be a positive integer. .*blocks=0"),
        ({"blocks": (1, 2)}, r"or one per stage \(3\). Received: blocks=\(1, 2\)"),
        ({"blocks": (1, 2, 1, 1)}, r"`blocks` must be a number, or one per stage \(3"),
        ({"blocks": ()}, r"one per stage \(3\). Received: blocks=\(\)"),
        ({"blocks": (1, 1, 1), **LARGE}, r"`blocks` must be a number, .*stage \(4\)"),
        ({"blocks": None}, "`blocks` must be .*Received: blocks=None"),
        ({"blocks": 2.5}, "`blocks` must be .*Received: blocks=2.5"),
        ({"heads": "both"}, "`heads` must be one of 'private', 'shared'. .*='both'"),
        ({"heads": None}, "`heads` must be one of .*Received: heads=None"),
        ({"execution": "dense"}, "`execution` must be one of 'masked', 'sliced'"),
        (
            {"taxonomy": TAXONOMY, "classes": 4},
            "`taxonomy` must have the 4 classes of the net. Received: one of 5 fine",
        ),
        ({"taxonomy": [0, 1]}, r"`taxonomy` must be a HierarchicalT.*: \[0, 1\]"),
        ({"coarse_heads": 1}, "`coarse_heads` needs a `taxonomy`. .*coarse_heads=1"),
        (
            {"taxonomy": TAXONOMY, "coarse_heads": 4},
            "`coarse_heads` must be an integer from 0 to 3. Received: coarse_heads=4",
        ),
        ({"taxonomy": TAXONOMY, "coarse_heads": -1}, "`coarse_heads` must be .*=-1"),
        ({"taxonomy": TAXONOMY, "coarse_heads": 1.0}, "`coarse_heads` must be .*=1.0"),
        ({"taxonomy": TAXONOMY, "coarse_heads": True}, "`coarse_heads` must be .*True"),
        ({"mean": (0.5, 0.5)}, "`mean` .*Received: .*0.5, 0.5"),
        ({"std": (0.5,)}, "`std` .*Received: .*0.5"),
        ({"input_shape": (8, 8, 1)}, "`mean` .*Received: .*0.485"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AnytimeConfig(**{**PLAIN, **arguments})


@pytest.mark.parametrize("arguments", [GROUPED, INCLUSIVE])
@pytest.mark.parametrize("name", ["cardinality", "branch_width"])
@pytest.mark.parametrize("value", [0, None, 2.0, True])
def test_bad_groups(arguments, name, value):
    message = f"`{name}` must be a positive integer. Received: {name}={value}"
    with pytest.raises(ValueError, match=message):
        AnytimeConfig(**{**arguments, name: value})


def test_channels_first_is_refused():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            AnytimeConfig(**PLAIN)
    finally:
        keras.config.set_image_data_format(before)
