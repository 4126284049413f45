"""What the way to each exit of a file costs in ARM instructions, and who goes there.

paths = count_paths(machine, "cortex-a76", file)
mean = np.dot(shares_by_pictures(file, pictures), paths)
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from emulator import ArmMachine

from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.exit_places import limits_to

NEAR = 0.01  # what the shares may miss of 1, rounded as they are


def exits_of(file: LiteRTModel) -> int:
    """How many exits a file has, the head included.

    Raises:
        ValueError: It has no early exits whose thresholds can be given.
    """
    at = file.table.first("answer_at")
    if at is None:
        raise ValueError(
            "A file must have early exits, that is a signature classify_at. Received: "
            f"{file.path} with {sorted(file.signatures)}"
        )
    return file.signatures[at].inputs["thresholds"].shape[0] + 1


def shares_as_said(texts: Sequence[str], exits: int) -> np.ndarray:
    """Numbers from 0 that add up to 1, float64 `[exits]`; else a `ValueError`."""
    try:
        shares = np.array(texts, float)
    except ValueError:
        shares = np.empty(0)
    if len(shares) != exits or not (shares >= 0).all() or abs(shares.sum() - 1) > NEAR:
        raise ValueError(
            f"--shares must be {exits} numbers from 0, one per exit, that add up to 1. "
            f"Received: {','.join(texts)}"
        )
    return shares / shares.sum()


def shares_by_pictures(file: LiteRTModel, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Share of the pictures that leave at each exit, at the file's own thresholds.

    Args:
        file: With early exits; it runs on this machine.
        pictures: Single images as the file takes them.
    """
    taken = [int(file.run("classify", image=each)["exit"][0]) for each in pictures]
    return np.bincount(taken, minlength=exits_of(file)) / len(taken)


def count_call(
    machine: ArmMachine,
    cpu: str,
    file: LiteRTModel,
    signature: str,
    **given: np.ndarray,
) -> int:
    """ARM instructions of one call with random pixels; inputs may be given by name.

    Raises:
        ValueError: The file lacks the signature.
    """
    if signature not in file.signatures:
        raise ValueError(
            f"A file must have a signature {signature}. Received: {file.path} with "
            f"{sorted(file.signatures)}"
        )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        inputs = {}
        for name, spec in file.signatures[signature].inputs.items():
            value = given.get(name)
            if value is None:
                value = rng.integers(0, 256, spec.shape)
            inputs[name] = str(Path(folder) / f"{name}.raw")
            value.astype(spec.dtype).tofile(inputs[name])
        return machine.instructions(cpu, str(file.path), signature, inputs)


def count_paths(
    machine: ArmMachine, cpu: str, file: LiteRTModel, **given: np.ndarray
) -> list[int]:
    """ARM instructions from the image to each exit, the head last.

    Thresholds that all scores reach, or none, send the call there. In a net whose blocks
    have gates too, random pixels decide on these, or the image that is given.
    """
    gates = exits_of(file) - 1
    return [
        count_call(
            machine,
            cpu,
            file,
            "classify_at",
            thresholds=limits_to(exit_, gates),
            **given,
        )
        for exit_ in range(gates + 1)
    ]
