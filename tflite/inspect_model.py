"""What is in a .tflite file, and is it well? Neither Keras nor TensorFlow is needed.

    python tflite/inspect_model.py net.tflite

prints signatures, places and costs of early exits, conditional branches and what they
hold, operators with their versions, the oldest runtime, whether weights are stored once;
then what is wrong with the file (a lint). Exit status: 0 if nothing is, 1 if something is,
2 if the file cannot be read. `--json out.json` writes all of it; `--allow
float-convolution,...` leaves findings out that are meant to be.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.flatfile.inspection import FileReport, Port, inspect_file
from keras_dyngate.flatfile.lint import CODES, Finding, lint

FLAGS = flags.FLAGS
flags.DEFINE_string("json", None, "Where to write what was found.")
flags.DEFINE_list("allow", [], f"Findings to leave out, of {', '.join(CODES)}.")
flags.DEFINE_bool("operators", False, "List every kind of operator.")


def _ports(ports: tuple[Port, ...]) -> str:
    units = {"executed_macs": " (thousands of MACs)"}
    return ", ".join(
        f"{port.name}: {port.dtype} {list(port.shape)}{units.get(port.name, '')}"
        for port in ports
    )


def show(report: FileReport) -> None:
    """Print a report."""
    runtime = report.min_runtime or "not noted"
    print(f"{report.path}: {report.bytes:,} bytes, oldest runtime: {runtime}")
    share = report.weight_bytes / max(report.bytes, 1)
    stored = (
        f"{report.repeated_bytes:,} bytes of them again"
        if report.repeated_bytes
        else "each once"
    )
    print(f"constants: {report.weight_bytes:,} bytes ({share:.0%}), {stored}")
    for name, signature in report.signatures.items():
        print(f"\n{name}({_ports(signature.inputs)})")
        print(f"    -> {_ports(signature.outputs)}")
        print(
            f"    {signature.always_macs:,} MACs always, "
            f"up to {signature.conditional_macs:,} more in "
            f"{len(signature.branches)} conditional branches; "
            f"reads {signature.weight_bytes:,} bytes of constants"
        )
    if report.exits:
        print("\nexits, as the output `exit` counts them")
        for index, exit_ in enumerate(report.exits):
            print(
                f"    {index}: {exit_.name}, {exit_}, {exit_.macs:,} MACs, {exit_.share}"
            )
    if report.branches:
        print("\nconditional branches (graph:operator), taken / otherwise")
        for branch in report.branches:
            sides = (branch.taken, branch.otherwise)
            print(
                f"    {branch.name:>8}: "
                + " / ".join(
                    f"{side.operators} operators, {side.macs:,} MACs, "
                    f"{side.weight_bytes:,} bytes"
                    for side in sides
                )
            )
    if FLAGS.operators:
        print("\noperators (version)")
        for name, count in report.operators.items():
            print(f"    {count:6} {name} ({report.versions[name]})")


def as_json(report: FileReport, findings: list[Finding]) -> dict[str, Any]:
    """A report and its findings as plain values."""
    fields = {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name != "model"
    }
    fields["signatures"] = {
        name: dataclasses.asdict(entry) for name, entry in report.signatures.items()
    }
    for name in ("branches", "exits"):
        fields[name] = [dataclasses.asdict(each) for each in fields[name]]
    return {**fields, "findings": [dataclasses.asdict(finding) for finding in findings]}


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise app.UsageError("Give one .tflite file.")
    unknown = set(FLAGS.allow) - set(CODES)
    if unknown:
        raise app.UsageError(
            f"--allow takes {', '.join(CODES)}. Received: {', '.join(sorted(unknown))}"
        )
    try:
        if FLAGS.json:
            writable_target("json", FLAGS.json)
        report = inspect_file(argv[1])
        findings = [found for found in lint(report) if found.code not in FLAGS.allow]
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    show(report)
    print()
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "nothing is wrong with it")
    if FLAGS.json:
        text = json.dumps(as_json(report, findings), indent=1)
        write_whole(Path(FLAGS.json), text.encode())
    return int(bool(findings))


if __name__ == "__main__":
    app.run(main)
