"""What each signature of an anytime net's file costs: MACs, time, weights, carrying."""

import dataclasses
import time
from typing import Any

import numpy as np

from keras_dyngate.cost import CostTable
from keras_dyngate.export.views import signature
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime import LiteRTModel

REPEATS = 5


@dataclasses.dataclass(frozen=True)
class SubnetworkCost:
    """One signature of an anytime net.

    Attributes:
        signature: "start", "step_<k>" or "classify_k<k>".
        k: The sub-network that answers.
        macs: MACs of one call.
        ms: Median of 5 runs, one thread, this machine.
        weight_bytes: Constants that it reads.
        own_bytes: Those among them that no other signature reads.
        carried_in: Bytes that it takes over from earlier steps.
        carried_out: Bytes that it leaves for later ones.
        copy_ms: Time to copy those once in memory, ms.
    """

    signature: str
    k: int
    macs: int
    ms: float
    weight_bytes: int
    own_bytes: int
    carried_in: int
    carried_out: int
    copy_ms: float

    def __str__(self) -> str:
        text = (
            f"{self.signature}: {self.macs:,} MACs, {self.ms:.2f} ms, reads "
            f"{self.weight_bytes:,} bytes of weights ({self.own_bytes:,} alone)"
        )
        if self.carried_in or self.carried_out:
            text += (
                f", carries {self.carried_in:,} bytes in and {self.carried_out:,} out "
                f"(copied in {self.copy_ms:.3f} ms)"
            )
        return text


def _constants(file: Any) -> dict[str, frozenset[int]]:
    """Buffers with constants that each signature reads."""
    found = {}
    for entry in file.signatureDefs:
        used = {
            graph.tensors[t].buffer
            for index in flatbuffer.reachable(file, entry.subgraphIndex)
            for graph in [file.subgraphs[index]]
            for operator in graph.operators
            for t in operator.inputs
            if t >= 0
        }
        found[entry.signatureKey.decode()] = frozenset(
            index for index in used if file.buffers[index].data is not None
        )
    return found


def _copy_ms(arrays: list[np.ndarray]) -> float:
    """Median time to copy arrays into memory that is there already, ms."""
    targets, times = [np.empty_like(a) for a in arrays], []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        for target, array in zip(targets, arrays, strict=True):
            np.copyto(target, array)
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times[1:])) if arrays else 0.0


def subnetwork_costs(
    litert: LiteRTModel, file: Any, profile: CostTable, image: np.ndarray
) -> tuple[SubnetworkCost, ...]:
    """Measure every step and sub-network of a file.

    Args:
        litert: The file.
        file: The same, read.
        profile: MACs of the model.
        image: In the dtype of the file.
    """
    constants = _constants(file)
    answers = {"logits", "label", "executed_macs"}
    kept: dict[str, np.ndarray] = {"image": image}
    rows = []
    named = [
        (k, name, macs)
        for kind, macs in (
            ("step", profile.per_step),
            ("subnetwork", profile.per_subnetwork),
        )
        for k, name in litert.table.numbered(kind).items()
    ]
    for k, name, macs in named:
        spec = litert.signatures[name]
        inputs = {key: kept[key] for key in spec.inputs}
        outputs = litert.run(name, **inputs)
        carried_in = [x for key, x in inputs.items() if key != "image"]
        carried_out = [x for key, x in outputs.items() if key not in answers]
        kept |= {key: x for key, x in outputs.items() if key not in answers}
        mine = constants[name]
        others: set[int] = set()
        graph = signature(file, name).subgraphIndex
        for other, buffers in constants.items():
            if signature(file, other).subgraphIndex != graph:
                others |= buffers
        size = {index: len(file.buffers[index].data) for index in mine}
        rows.append(
            SubnetworkCost(
                signature=name,
                k=k,
                macs=macs[k - 1],
                ms=litert.benchmark(name, inputs, repeats=REPEATS, warmup=1).median_ms,
                weight_bytes=sum(size.values()),
                own_bytes=sum(size[index] for index in mine - others),
                carried_in=sum(x.nbytes for x in carried_in),
                carried_out=sum(x.nbytes for x in carried_out),
                copy_ms=_copy_ms(carried_in + carried_out),
            )
        )
    return tuple(rows)
