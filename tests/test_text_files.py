"""Names in text files: one a line, the same on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_dyngate._files import read_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("cat\ndog\nmouse\n", ["cat", "dog", "mouse"]),
        ("cat\ndog\nmouse", ["cat", "dog", "mouse"]),
        ("\ufeffcat\r\ndog\r\nmouse\r\n", ["cat", "dog", "mouse"]),
        ("cat\ndog\n\n \r\n\n", ["cat", "dog"]),
        ("cat\n\ndog\n", ["cat", "", "dog"]),
        # Other characters that `str.splitlines` would split at.
        ("a\u2028b\nc\x85d\ne\x0bf\n", ["a\u2028b", "c\x85d", "e\x0bf"]),
        ("café\nネコ\n", ["café", "ネコ"]),
        ("", []),
    ],
)
def test_lines(tmp_path, content, lines):
    (tmp_path / "names.txt").write_bytes(content.encode())
    assert read_lines(tmp_path / "names.txt") == lines


def test_whatever_the_locale(tmp_path):
    (tmp_path / "names.txt").write_bytes("café\n".encode())
    code = (
        "import sys; from keras_dyngate._files import read_lines\n"
        "print(ascii(read_lines(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, tmp_path / "names.txt"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert done.stdout == "['caf\\xe9']\n", done.stderr


def test_other_files(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("cat\n".encode("utf-16"))
    with pytest.raises(ValueError, match="names.txt' must be a text file in UTF-8"):
        read_lines(path)
    with pytest.raises(FileNotFoundError, match="none.txt"):
        read_lines(tmp_path / "none.txt")
