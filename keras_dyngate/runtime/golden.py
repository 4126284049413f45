"""Golden cases: what a file answers here, to hold the answers of other machines against.

write_golden("net.tflite", "golden", images)    # a folder: the file, inputs, outputs
...                                             # run it elsewhere, outputs to "found"
for difference in compare_golden("golden", "found"):
    print(difference)

The folder holds `model.tflite`, raw little-endian tensors, and `cases.txt` with one call
per line, in the words that the C runner takes after `--run`:

    classify image=0.in0.raw executed_macs=>0.out0.raw label=>0.out1.raw
"""

import dataclasses
import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate.runtime.chain import chain, feeds
from keras_dyngate.runtime.litert_model import LiteRTModel, Signature

MODEL, CASES = "model.tflite", "cases.txt"


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of a signature; files by the names of tensors.

    Attributes:
        signature: Its name.
        inputs: Files that its inputs are read from.
        outputs: Files with its outputs.
    """

    signature: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One output of one case, here and elsewhere.

    Attributes:
        case: Line of `cases.txt`, from 0.
        signature: Its name.
        output: Its name.
        dtype: "float32", "int32", "uint8", ...
        equal: Whether all bits are.
        relative: Largest difference over the largest magnitude of the golden output; 0
            if equal, infinite where one of both is no finite number.
    """

    case: int
    signature: str
    output: str
    dtype: str
    equal: bool
    relative: float


def _without_spaces(signatures: dict[str, Signature]) -> None:
    """Names must fit into a line of `cases.txt`."""
    for name, signature in signatures.items():
        for text in (name, *signature.inputs, *signature.outputs):
            if not text or re.search(r"[\s=]", text):
                raise ValueError(
                    "Signatures and tensors of the file at `path` must have names "
                    f"without spaces and '='. Received: {text!r}"
                )


def new_folder(name: str, path: str | os.PathLike[str]) -> Path:
    """The path, if a folder can be made there; asked before any work is done.

    Raises:
        ValueError: If something is there already, or its parent is no folder.
    """
    target = Path(path)
    if target.exists() or not target.absolute().parent.is_dir():
        raise ValueError(
            f"`{name}` must be a new folder in an existing one. "
            f"Received: {name}={str(path)!r}"
        )
    return target


def write_golden(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    images: Any,
    **inputs: Any,
) -> int:
    """Run every signature of a file on some images, and keep what goes in and out.

    Args:
        path: A .tflite file; what steps and stages hand on is taken from their outputs.
        folder: A folder that does not exist yet; it is written whole or not at all.
        images: `[N, height, width, channels]`, 0 to 255, or what else the file's input
            is; of a file with several inputs a dict of such arrays by name.
        **inputs: What else signatures take. `thresholds` are the file's own if not given.

    Returns:
        How many cases were written.

    Raises:
        ValueError: `folder` exists or has no parent, `images` is empty, or an input is
            missing or does not suit the file.
    """
    target = new_folder("folder", folder)
    model = LiteRTModel(path)
    _without_spaces(model.signatures)
    given = feeds(model, images, inputs, None)
    if not given:
        raise ValueError("`images` must hold at least one. Received: none")
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as beside:
        made = Path(beside) / "golden"
        made.mkdir()
        shutil.copyfile(path, made / MODEL)
        calls = itertools.chain.from_iterable(chain(model, each) for each in given)
        for name, fed, outputs in calls:
            words = [name]
            specs = model.signatures[name]
            for sign, kind, tensors, types in (
                ("=", "in", fed, specs.inputs),
                ("=>", "out", outputs, specs.outputs),
            ):
                for index, (key, value) in enumerate(sorted(tensors.items())):
                    file = f"{len(lines)}.{kind}{index}.raw"
                    dtype = types[key].dtype.newbyteorder("<")
                    (made / file).write_bytes(np.asarray(value, dtype).tobytes())
                    words.append(f"{key}{sign}{file}")
            lines.append(" ".join(words))
        (made / CASES).write_text("".join(f"{line}\n" for line in lines))
        os.rename(made, target)
    return len(lines)


def read_cases(folder: str | os.PathLike[str]) -> list[Case]:
    """The cases of a folder that `write_golden` wrote.

    Raises:
        ValueError: The folder holds no (readable) `cases.txt`.
    """
    path = Path(folder) / CASES
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`folder` must hold a text file {CASES}. "
            f"Received: folder={str(folder)!r} ({error})"
        ) from error
    cases = []
    for line in lines:
        name, *words = line.split(" ")
        tensors: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for word in words:
            match = re.fullmatch(r"([^=]+)=(>?)([^=>/\\]+)", word)
            if match is None:
                raise ValueError(
                    f"Every line of {CASES} must be a signature and words "
                    f"tensor=file or tensor=>file. Received: {line!r}"
                )
            tensors[bool(match[2])][match[1]] = match[3]
        cases.append(Case(name, *tensors))
    return cases


def runner_arguments(
    folder: str | os.PathLike[str], found: str | os.PathLike[str]
) -> list[str]:
    """Arguments for the C runner: the model, and every case as a `--run`.

    Args:
        folder: From `write_golden`.
        found: An existing folder for the outputs; they get the golden ones' names.
    """
    arguments = [str(Path(folder) / MODEL)]
    for case in read_cases(folder):
        arguments += ["--run", case.signature]
        arguments += [f"{k}={Path(folder) / file}" for k, file in case.inputs.items()]
        arguments += [f"{k}=>{Path(found) / file}" for k, file in case.outputs.items()]
    return arguments


def _relative(golden: np.ndarray, other: np.ndarray) -> float:
    if golden.tobytes() == other.tobytes():
        return 0.0
    a, b = golden.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo("float32").tiny))


def compare_golden(
    folder: str | os.PathLike[str], found: str | os.PathLike[str]
) -> list[Difference]:
    """Every output of every case beside the golden one, equal or not.

    Args:
        folder: From `write_golden`.
        found: A folder with the other machine's outputs, in files of the same names.

    Raises:
        ValueError: A file is missing or of another size.
    """
    signatures = LiteRTModel(Path(folder) / MODEL).signatures
    differences = []
    for index, case in enumerate(read_cases(folder)):
        for name, file in case.outputs.items():
            dtype = signatures[case.signature].outputs[name].dtype
            golden = np.fromfile(Path(folder) / file, dtype.newbyteorder("<"))
            path = Path(found) / file
            size = path.stat().st_size if path.is_file() else None
            if size != golden.nbytes:
                raise ValueError(
                    f"`found` must hold {file} of {golden.nbytes} bytes, output {name!r} "
                    f"of {case.signature!r}. Received: "
                    + ("no such file" if size is None else f"{size} bytes")
                )
            other = np.fromfile(path, golden.dtype)
            relative = _relative(golden, other)
            differences.append(
                Difference(
                    case=index,
                    signature=case.signature,
                    output=name,
                    dtype=dtype.name,
                    equal=golden.tobytes() == other.tobytes(),
                    relative=relative,
                )
            )
    return differences
