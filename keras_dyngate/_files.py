"""Files written whole or not at all: beside their place first, then renamed."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

# What NumPy raises for an .npz that is of another kind, or was cut off.
NOT_AN_NPZ = (
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def writable_target(name: str, path: "str | os.PathLike[str]") -> Path:
    """The path, if a file can be put there; asked before any work is done.

    Raises:
        ValueError: If its folder is missing or read-only, or it is a folder itself.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            f"`{name}` must be a file in an existing, writable folder. "
            f"Received: {name}={str(path)!r}"
        )
    return target


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step; an old file stays until then."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
