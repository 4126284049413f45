"""What signatures are for: as a file notes it, or, in files without, by their names."""

import json

import pytest

from keras_dyngate.runtime.signature_table import Role, SignatureTable

EXITS = ["classify", "classify_at", "explain", "explain_at", "stage_1", "stage_2"]
NOTED = {
    "one": {"kind": "step", "order": 1},
    "two": {"kind": "step", "order": 2, "follows": "one"},
    "ten": {"kind": "step", "order": 10, "follows": "two"},
    "why": {"kind": "witness", "explained_by": "why"},
    "what": {"kind": "answer", "explained_by": "why"},
}


def of_names(*names):
    return SignatureTable.read({}, names)


def test_a_table_in_a_file():
    """Names say nothing then: these are called otherwise than ours."""
    table = SignatureTable.read({"signatures": NOTED}, sorted(NOTED))
    assert list(table) == ["what", "why", "one", "two", "ten"]
    assert table.numbered("step") == {1: "one", 2: "two", 10: "ten"}
    assert table.first("answer") == "what" and table.first("stage") is None
    assert table["what"].explained_by == table["why"].explained_by == "why"
    assert table.noted() == NOTED == json.loads(json.dumps(table.noted()))


def test_names_that_a_table_knows_otherwise():
    table = SignatureTable.read(
        {"signatures": {"classify": {"kind": "witness"}}}, ["classify", "step_2"]
    )
    assert table == {"classify": Role("witness"), "step_2": Role("other")}


def test_fewer_signatures():
    """What is gone is referred to no more, whoever took it out of the file."""
    table = SignatureTable.read({"signatures": NOTED}, ["two", "ten", "what"])
    assert table["two"].follows is table["what"].explained_by is None
    assert table["ten"].follows == "two"
    whole = SignatureTable.read({"signatures": NOTED}, NOTED)
    assert whole.kept(["what", "ten", "two"]) == table


def test_names_of_0_1_0():
    table = of_names(*EXITS)
    assert table == {
        "classify": Role("answer", explained_by="explain"),
        "explain": Role("witness", explained_by="explain"),
        "classify_at": Role("answer_at", explained_by="explain_at"),
        "explain_at": Role("witness_at", explained_by="explain_at"),
        "stage_1": Role("stage", 1),
        "stage_2": Role("stage", 2, follows="stage_1"),
    }
    assert of_names("segment", "explain")["segment"] == Role(
        "answer", explained_by="explain"
    )
    steps = of_names("classify", "classify_k2", "start", "step_10", "step_2", "step_3")
    assert steps.numbered("step") == {
        1: "start",
        2: "step_2",
        3: "step_3",
        10: "step_10",
    }
    follows = {name: role.follows for name, role in steps.items()}
    assert follows == {
        "classify": None,
        "classify_k2": None,
        "start": None,
        "step_2": "start",
        "step_3": "step_2",
        "step_10": None,  # there is no step_9
    }
    assert steps.numbered("subnetwork") == {2: "classify_k2"}


@pytest.mark.parametrize("name", ["stage_0", "step_x", "classify_k", "stage_1b", "f"])
def test_other_names(name):
    assert of_names(name) == {name: Role("other")}


@pytest.mark.parametrize(
    "noted",
    [
        [],
        "steps",
        {"a": None},
        {"a": {}},
        {"a": {"kind": 3}},
        {"a": {"kind": "step", "order": "1"}},
        {"a": {"kind": "step", "order": True}},
        {"a": {"kind": "step", "order": 0}},
        {"a": {"kind": "step", "follows": 1}},
        {"a": {"kind": "answer", "explained_by": ["b"]}},
    ],
)
def test_other_forms(noted):
    with pytest.raises(ValueError, match="'signatures' in a file's metadata must map"):
        SignatureTable.read({"signatures": noted}, ["a"])
