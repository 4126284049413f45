"""The machine a measurement was made on, as far as the system tells."""

import contextlib
import os
import platform
from pathlib import Path


def describe_machine() -> dict[str, object]:
    """Processor name and number of cores, to stand beside every measured time."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return {"cpu": name, "cores": os.cpu_count()}
