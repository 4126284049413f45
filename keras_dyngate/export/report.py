"""What an export made: size, signatures, branches, cost, time, agreement with Keras."""

import dataclasses

from keras_dyngate.cost import MacProfile
from keras_dyngate.export.lowering import Branch
from keras_dyngate.export.parity import Parity
from keras_dyngate.export.subnetwork_costs import SubnetworkCost


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The result of `export_tflite`.

    Attributes:
        path: Of the file.
        bytes: Its size.
        quantization: As asked for.
        signatures: Names of the outputs, by signature.
        branches: What each conditional branch holds.
        group_sizes: Channels that run together, by block; `MacProfile.of` takes it.
        macs: The model's MACs.
        latency_ms: Median of 5 runs of the first signature (`classify` or `segment` if
            it was kept) on one image, one thread, this machine.
        exit_ms: The same by `classify_at`, to each exit of a net with early exits, the
            head last; None for others. What `EarlyExitModel.calibrate` takes as
            `path_ms`.
        subnetworks: Of an anytime net, what each step and sub-network costs.
        parity: Agreement with Keras, if `parity_data` was given.
    """

    path: str
    bytes: int
    quantization: str | None
    signatures: dict[str, tuple[str, ...]]
    branches: tuple[Branch, ...]
    group_sizes: dict[str, int]
    macs: MacProfile
    latency_ms: float
    exit_ms: tuple[float, ...] | None = None
    subnetworks: tuple[SubnetworkCost, ...] = ()
    parity: Parity | None = None

    def __str__(self) -> str:
        inside = {name.split("/")[0] for name in (b.name for b in self.branches)}
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.quantization or 'float32'}",
            f"signatures: {', '.join(self.signatures)}",
        ]
        took = f"one image took {self.latency_ms:.2f} ms (one thread, this machine)"
        if self.subnetworks:
            lines += [
                *map(str, self.subnetworks),
                f"{next(iter(self.signatures))}: {took}",
            ]
        else:
            lines.append(
                f"{len(self.branches)} conditional branches in {len(inside)} layers "
                f"hold {self.macs.gateable:,} of {self.macs.total:,} MACs "
                f"(+ {self.macs.controllers:,} of controllers); {took}"
            )
        if self.exit_ms is not None:
            macs = [f"{n:,}" for n in self.macs.per_exit]
            paths = [f"{ms:.2f} ms" for ms in self.exit_ms]
            pairs = [f"{a} MACs, {b}" for a, b in zip(macs, paths, strict=True)]
            lines.append(f"to each exit: {'; '.join(pairs)}")
        if self.parity is not None:
            p = self.parity
            labels = "labels of pixels" if "segment" in self.signatures else "labels"
            lines.append(
                f"against Keras on {p.samples} images: logits within "
                f"{p.max_difference:.1e} of the largest, {labels} equal "
                f"{p.argmax_agreement:.1%}, decisions equal {p.decision_agreement:.2%}"
            )
        return "\n".join(lines)
