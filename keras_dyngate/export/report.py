"""What an export made: size, signatures, branches, cost, time, agreement with Keras."""

import dataclasses

from keras_dyngate.cost import CostTable
from keras_dyngate.export.agreement import Parity
from keras_dyngate.export.lowering import Branch
from keras_dyngate.export.plan.subnetwork_costs import SubnetworkCost


@dataclasses.dataclass(frozen=True)
class TriedQuantization:
    """One file that `quantization="auto"` made.

    Attributes:
        name: Its quantization, with the layers that stay in float32.
        ms: Median of an image; all files in turn.
        bytes: Of the file.
        accuracy: On the data it was judged on; None without labels.
        agreement: Share of labels that are the float32 file's.
        decision_agreement: Share of gates' decisions that are Keras'; None: no gates.
        exit_agreement: The same of exits.
        kept: Whether it keeps to the tolerance.
    """

    name: str
    ms: float
    bytes: int
    accuracy: float | None
    agreement: float
    decision_agreement: float | None
    exit_agreement: float | None
    kept: bool

    def __str__(self) -> str:
        def shown(value: float | None) -> str:
            return f"{'-':>9}" if value is None else f"{value:9.2%}"

        shares = (self.accuracy, self.agreement, self.decision_agreement)
        numbers = "".join(map(shown, (*shares, self.exit_agreement)))
        kept = "yes" if self.kept else "no"
        return f"{self.ms:8.3f}{self.bytes / 1e6:8.2f}{numbers}{kept:>6}  {self.name}"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The result of `export_tflite`.

    Attributes:
        path: Of the file.
        bytes: Its size.
        quantization: As asked for; "float32" for None.
        signatures: Names of the outputs, by signature.
        branches: What each conditional branch holds.
        group_sizes: Channels that run together, by block; `CostTable.of` takes it.
        macs: The model's MACs.
        latency_ms: Median of 5 runs of the first signature (`classify` or `segment` if
            it was kept) on one image, one thread, this machine.
        exit_ms: The same by `classify_at`, to each exit of a net with early exits, the
            head last; None for others. What `EarlyExitModel.calibrate` takes as
            `path_ms`.
        subnetworks: Of an anytime net, what each step and sub-network costs.
        parity: Agreement with Keras; None if `parity_data` was False.
        tried: With `quantization="auto"` all files that were made, the fastest first.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        report = kd.export_tflite(model, "net.tflite", quantization="dynamic")
        print(report.bytes, report.signatures, report.parity)
        ```
    """

    path: str
    bytes: int
    quantization: str
    signatures: dict[str, tuple[str, ...]]
    branches: tuple[Branch, ...]
    group_sizes: dict[str, int]
    macs: CostTable
    latency_ms: float
    exit_ms: tuple[float, ...] | None = None
    subnetworks: tuple[SubnetworkCost, ...] = ()
    parity: Parity | None = None
    tried: tuple[TriedQuantization, ...] = ()

    def __str__(self) -> str:
        inside = {name.split("/")[0] for name in (b.name for b in self.branches)}
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.quantization}",
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
                f"(+ {self.macs.controllers:,} of controllers; the file's "
                f"`executed_macs` counts thousands); {took}"
            )
        if self.exit_ms is not None:
            macs = [f"{n:,}" for n in self.macs.per_exit]
            paths = [f"{ms:.2f} ms" for ms in self.exit_ms]
            pairs = [f"{a} MACs, {b}" for a, b in zip(macs, paths, strict=True)]
            lines.append(f"to each exit: {'; '.join(pairs)}")
        unknown = getattr(self.macs, "unknown", ())
        if unknown:
            lines.append(f"not counted, of unknown kind: {', '.join(unknown)}")
        if self.parity is not None:
            lines.append(self._agreement(self.parity))
        if self.tried:
            lines.append(
                f"{'ms':>8}{'MB':>8}{'accuracy':>9}{'labels':>9}{'gates':>9}{'exits':>9}"
                f"{'kept':>6}  (labels as in float32; gates and exits as in Keras)"
            )
            lines += map(str, self.tried)
        return "\n".join(lines)

    def _agreement(self, parity: Parity) -> str:
        """The line about parity: of what there is to compare."""
        pixels = any("labels" in outputs for outputs in self.signatures.values())
        labels = "labels of pixels" if pixels else "labels"
        text = (
            f"against Keras on {parity.samples} images: logits within "
            f"{parity.max_difference:.1e} of the largest, {labels} equal "
            f"{parity.argmax_agreement:.1%}"
        )
        if parity.decision_agreement is not None:
            text += f", decisions equal {parity.decision_agreement:.2%}"
        if parity.exit_agreement is not None:
            text += f", exits equal {parity.exit_agreement:.1%}"
        clear = [parity.clear_argmax_agreement, parity.clear_exit_agreement]
        raw = [parity.argmax_agreement, parity.exit_agreement]
        if clear != raw:
            found = [f"{share:.1%}" for share in clear if share is not None]
            text += f" (with near ties as equal: {' and '.join(found)})"
        return text

    def __repr__(self) -> str:
        return (
            f"ExportReport({self.path!r}, {self.bytes} bytes, {self.quantization}, "
            f"{len(self.signatures)} signatures)"
        )
