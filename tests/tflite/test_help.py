"""What scripts say about themselves: no two lines or sentences run together."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("tflite/**/*.py"), *ROOT.glob("examples/*.py")])
SCRIPTS = [path for path in SCRIPTS if "build" not in path.parts]


def help_texts(tree):
    """The arguments of `flags.DEFINE_...` that are texts."""
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "attr", "")
        if isinstance(node, ast.Call) and name.startswith("DEFINE_"):
            yield from (
                value
                for value in (*node.args, *(k.value for k in node.keywords))
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            )


def pieces(source):
    """The texts that a text of several lines of code is joined from."""
    tokens = tokenize.generate_tokens(io.StringIO(f"({source})").readline)
    return [ast.literal_eval(t.string) for t in tokens if t.type == tokenize.STRING]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_lines_stay_apart(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    # A line that is continued in a text that is not raw gets as long as both.
    for line in (ast.get_docstring(tree, clean=False) or "").splitlines():
        assert len(line) <= 92, line
    for text in help_texts(tree):
        parts = pieces(ast.get_source_segment(source, text))
        assert "".join(parts) == text.value
        for first, second in zip(parts, parts[1:], strict=False):
            assert first.endswith(" ") != second.startswith(" "), first + second


def test_the_check_sees_what_it_should():
    assert len(SCRIPTS) > 20
    code = 'flags.DEFINE_string("a", None, "One."\n    "Two.")'
    texts = [t for t in help_texts(ast.parse(code)) if t.value.startswith("One")]
    assert pieces(ast.get_source_segment(code, texts[0])) == ["One.", "Two."]


def test_help_of_a_tool():
    script = ROOT / "tflite" / "benchmark.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    command = "    python tflite/benchmark.py --model gated_resnet34 --gate_groups 4 \\"
    assert lines[lines.index(command) + 1].strip().startswith("--quantization dynamic")
    said = " ".join(done.stdout.split())
    assert "`time ratio` is a file's time over that of the first file" in said
    assert "MMACs are millions" in said and "`executed_macs` counts thousands" in said
