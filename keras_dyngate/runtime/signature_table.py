"""What each signature of a file is for, as its exporter noted it.

    model.table["step_2"]            # Role("step", order=2, follows="start")
    model.table.numbered("step")     # {1: "start", 2: "step_2"}
    model.table.first("answer")      # "classify" or "segment"

The metadata entry "signatures" holds the table:

    {"start": {"kind": "step", "order": 1},
     "step_2": {"kind": "step", "order": 2, "follows": "start"},
     "classify": {"kind": "answer", "explained_by": "explain"}}

| kind | |
|---|---|
| answer | the net's answer to an image |
| answer_at | the same, by thresholds that it takes as an input |
| answer_under | the same, by decisions, and thresholds, that it takes as inputs |
| witness, witness_at | the same answers, and every decision |
| stage | from one exit to the next, the first of them 1 |
| step | the next answer of an anytime net, from what earlier steps left; the first is 1 |
| subnetwork | sub-network k of an anytime net at once, `order` being k |
| other | something else |
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

ENTRY = "signatures"  # of the metadata
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Role:
    """What one signature is for.

    Attributes:
        kind: See the table of kinds in this module.
        order: Number of a stage, a step or a sub-network, from 1; None for others.
        follows: The signature whose outputs it goes on from, or None.
        explained_by: The signature that gives the same answer with its decisions, or
            None; a witness explains itself.
    """

    kind: str
    order: int | None = None
    follows: str | None = None
    explained_by: str | None = None

    def noted(self) -> dict[str, Any]:
        """As it is written into a file: without what is None."""
        found = dataclasses.asdict(self)
        return {key: value for key, value in found.items() if value is not None}


class SignatureTable(dict[str, Role]):
    """Roles by signature, those that follow others behind them."""

    @classmethod
    def read(
        cls, metadata: Mapping[str, Any], names: Iterable[str]
    ) -> "SignatureTable":
        """The table of a file.

        Args:
            metadata: What its exporter wrote.
            names: Its signatures. Roles of others, and references to them, are left out;
                what the table lacks is of the kind "other".

        Raises:
            ValueError: If the entry "signatures" has another form.
        """
        names = list(names)
        noted = metadata.get(ENTRY)
        roles = _roles_by_name(names) if noted is None else _checked(noted)
        known = {
            name: _within(roles.get(name, Role(OTHER)), set(names)) for name in names
        }
        ordered = sorted(known, key=lambda name: known[name].order or 0)
        return cls((name, known[name]) for name in ordered)

    def noted(self) -> dict[str, Any]:
        """As the metadata hold it."""
        return {name: role.noted() for name, role in self.items()}

    def kept(self, names: Iterable[str]) -> "SignatureTable":
        """The table of a file with fewer signatures."""
        return self.read(
            {ENTRY: self.noted()}, [name for name in self if name in names]
        )

    def numbered(self, kind: str) -> dict[int, str]:
        """Stages, steps or sub-networks by their number, ascending."""
        return {
            role.order: name
            for name, role in self.items()
            if role.kind == kind and role.order is not None
        }

    def first(self, kind: str) -> str | None:
        """The first signature of a kind, or None."""
        return next((name for name, role in self.items() if role.kind == kind), None)


def _within(role: Role, names: set[str]) -> Role:
    """A role that refers to these signatures only."""
    return dataclasses.replace(
        role,
        follows=role.follows if role.follows in names else None,
        explained_by=role.explained_by if role.explained_by in names else None,
    )


def _checked(noted: Any) -> dict[str, Role]:
    """Roles by name from the entry of a file."""

    def fits(role: Role) -> bool:
        return (
            isinstance(role.kind, str)
            and (role.order is None or type(role.order) is int and role.order > 0)
            and isinstance(role.follows, str | None)
            and isinstance(role.explained_by, str | None)
        )

    fields = [field.name for field in dataclasses.fields(Role)]
    try:
        roles = {
            name: Role(**{key: each[key] for key in fields if key in each})
            for name, each in noted.items()
        }
    except (AttributeError, TypeError):
        roles = None
    if roles is None or not all(map(fits, roles.values())):
        raise ValueError(
            "'signatures' in a file's metadata must map names to kind, order, follows "
            f"and explained_by. Received: {str(noted)[:100]}"
        )
    return roles


# Files of version 0.1.0 have no table. Their names tell, here and nowhere else.
_NAMED = {
    "classify": Role("answer", explained_by="explain"),
    "segment": Role("answer", explained_by="explain"),
    "explain": Role("witness", explained_by="explain"),
    "classify_at": Role("answer_at", explained_by="explain_at"),
    "explain_at": Role("witness_at", explained_by="explain_at"),
    "start": Role("step", order=1),
}
_NUMBERED = {"stage_": "stage", "step_": "step", "classify_k": "subnetwork"}


def _roles_by_name(names: list[str]) -> dict[str, Role]:
    """Roles that the names of signatures tell."""
    roles = {name: _NAMED[name] for name in names if name in _NAMED}
    for name in names:
        match = re.fullmatch(r"(stage_|step_|classify_k)([0-9]+)", name)
        if match and int(match[2]):
            kind, order = _NUMBERED[match[1]], int(match[2])
            before = "start" if (kind, order) == ("step", 2) else f"{kind}_{order - 1}"
            follows = before if kind != "subnetwork" and order > 1 else None
            roles[name] = Role(kind, order, follows)
    return roles
