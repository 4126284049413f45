"""Where a measured table comes from, and how well it holds."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Measured:
    """How the costs of a `CostTable` were measured.

    Attributes:
        device: Processor or phone.
        threads: CPU threads.
        quantization: Of the file: "float32", "float16", "dynamic" or "int8".
        cache: "warm": each call right after another; "cold": behind other work.
        date: Of the measurement, as "2026-11-29".
        file_sha256: Of the file that was run, "" if not known.
        trials: How many sets of decisions were run.
        r2: Share of the variance that the table explains, of trials that it was not
            fitted to; 1 is perfect.
        error: Mean relative error of those trials.
        worst: Their 95th percentile of relative errors.

    Example:
        ```python
        measured = kd.cost.Measured("Pixel 9", threads=1, quantization="int8", trials=300)
        print(measured)
        ```
    """

    device: str
    threads: int = 1
    quantization: str = "float32"
    cache: str = "warm"
    date: str = ""
    file_sha256: str = ""
    trials: int = 0
    r2: float = float("nan")
    error: float = float("nan")
    worst: float = float("nan")

    def __str__(self) -> str:
        what = f"{self.quantization} on {self.device}, {self.threads} thread(s)"
        if self.r2 == self.r2:
            what += f"; R2 {self.r2:.3f}, held-out trials off by {self.error:.1%}"
        return what
