"""Files written whole or not at all, beside their place first; and lists of names."""

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
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"`{name}` must be a path. Received: {name}={path!r}")
    target = Path(path)
    folder = target.parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            f"`{name}` must be a file in an existing, writable folder. "
            f"Received: {name}={str(path)!r}"
        )
    return target


def read_lines(path: "str | os.PathLike[str]") -> list[str]:
    """The lines of a text file, such as class names; empty ones at its end do not count.

    It is read as UTF-8 on every machine, with or without a byte order mark. Lines end
    with a newline, after a carriage return or not, and with nothing else: a name may hold
    any other character.

    Raises:
        ValueError: If it is not UTF-8.
        OSError: If it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{os.fspath(path)!r} must be a text file in UTF-8. Received: {error}"
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


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
