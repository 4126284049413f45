"""An ARM machine to run .tflite files on: QEMU, the C runner and LiteRT for aarch64.

    machine = ArmMachine("tflite/build/arm")    # fetches and builds what is missing
    machine.run("cortex-a53", [*runner_arguments("golden", "found")])
    machine.instructions("cortex-a76", "net.tflite", "classify", {"image": "image.raw"})

Of Debian it takes qemu-user and g++-aarch64-linux-gnu, of PyPI the wheel of ai-edge-litert.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

WHEEL = "ai-edge-litert==2.3.0"
PLATFORM, PYTHON = "manylinux_2_27_aarch64", "3.11"
LIBRARY = "libLiteRt.so"
SYSROOT = Path("/usr/aarch64-linux-gnu")
COMPILER, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
TOOLS = {
    COMPILER: "gcc-aarch64-linux-gnu",
    QEMU: "qemu-user",
    "cc": "gcc",
    "cmake": "cmake",
}

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"

_OLD = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT = f"{_OLD} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
# By name: what QEMU is to be, and what the kernel says of it: part and features. LiteRT's
# kernels are chosen by that, and without it the choice fails.
CPUS = {
    "cortex-a53": ("cortex-a53", "0xd03", _OLD),
    "cortex-a76": ("cortex-a76", "0xd0b", _DOT),
    "i8mm": ("max,sve=off", "0xd0b", f"{_DOT} i8mm"),
}


class Unavailable(RuntimeError):
    """A tool is missing; the text says which, and what brings it."""


def _call(command: Sequence[str | os.PathLike[str]]) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(str(part) for part in command)[:200]
        output = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(f"exit status {done.returncode} of {words}\n{output}")
    return done


def _library(folder: Path) -> Path:
    """LiteRT for aarch64, of the pinned wheel."""
    library = folder / LIBRARY
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            options = ["--platform", PLATFORM, "--python-version", PYTHON]
            where = ["--only-binary=:all:", "-d", beside]
            try:
                _call([*pip, *options, *where, WHEEL])
            except RuntimeError as error:
                raise Unavailable(f"needs {WHEEL} for {PLATFORM}: {error}") from error
            (wheel,) = Path(beside).glob("*.whl")
            with zipfile.ZipFile(wheel) as packed:
                found = packed.extract(f"ai_edge_litert/{LIBRARY}", beside)
            os.replace(found, library)
    return library


class ArmMachine:
    """Builds what it needs in a folder, and runs the C runner on an emulated CPU.

    Args:
        folder: Where the library, the runner and the plugin are kept.

    Raises:
        Unavailable: A tool or the wheel is missing.
        RuntimeError: Something does not build.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        for tool, package in TOOLS.items():
            if not shutil.which(tool):
                raise Unavailable(f"needs {tool} (Debian's package {package})")
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.library = _library(self.folder)
        built = self.folder / "native"
        target = ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_C_COMPILER={COMPILER}"]
        _call(["cmake", "-S", NATIVE, "-B", built, "-DSTRICT=ON", *target])
        _call(["cmake", "--build", built, "--target", "runner"])
        self.runner = built / "runner"
        self._plugin = self.folder / "libcount.so"
        source = HERE / "count_instructions.c"
        _call(["cc", "-O2", "-Wall", "-shared", "-fPIC", source, "-o", self._plugin])
        for name, (_, part, features) in CPUS.items():
            self._pretend(self.folder / name, part, features)

    def _pretend(self, root: Path, part: str, features: str) -> None:
        """A root folder with ARM's libraries and the description of a CPU."""
        (root / "proc").mkdir(parents=True, exist_ok=True)
        if not (root / "lib").is_symlink():
            (root / "lib").symlink_to(SYSROOT / "lib")
        core = (
            f"BogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\n"
            "CPU revision\t: 0\n\n"
        )
        text = "".join(f"processor\t: {index}\n{core}" for index in range(2))
        (root / "proc" / "cpuinfo").write_text(text)

    def run(
        self, cpu: str, arguments: Sequence[str], *, count: bool = False
    ) -> subprocess.CompletedProcess:
        """Call the runner on a CPU of `CPUS`; what it prints is in `stdout`, `stderr`.

        Raises:
            RuntimeError: It ends with another exit status than 0.
        """
        kind, root = CPUS[cpu][0], self.folder / cpu
        plugin = ["-plugin", str(self._plugin), "-d", "plugin"] if count else []
        emulate = [QEMU, "-cpu", kind, "-L", str(root), *plugin, str(self.runner)]
        return _call([*emulate, "--library", str(self.library), *arguments])

    def instructions(
        self, cpu: str, model: str, signature: str, inputs: Mapping[str, str]
    ) -> int:
        """ARM instructions of one call: those of two calls less those of one.

        Args:
            cpu: One of `CPUS`.
            model: A .tflite file.
            signature: Its signature to call.
            inputs: Raw files by input name.
        """
        words = [f"{name}={path}" for name, path in inputs.items()]
        counts = []
        for repeat in ("1", "2"):
            arguments = [model, "--repeat", repeat, "--run", signature, *words]
            text = self.run(cpu, arguments, count=True).stderr
            match = re.search(r"^instructions: (\d+)$", text, re.MULTILINE)
            if match is None:
                raise RuntimeError(f"{QEMU} counted nothing. Received: {text[-500:]!r}")
            counts.append(int(match[1]))
        return counts[1] - counts[0]
