"""The page: complete, escaped, without any other file, and whole or not at all."""

import base64
import re
import sys

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from keras_dyngate.visualization import side_by_side, write_report  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"


class Broken:
    """A figure that cannot be drawn."""

    def savefig(self, *args, **kwargs):
        raise RuntimeError("no ink")


def test_everything_given_is_on_the_page(tmp_path):
    path = tmp_path / "page.html"
    write_report(
        path,
        {
            "title": "Nets & gates",
            "lead": "The lead.",
            "highlights": [{"value": "0.71", "label": "of the time"}],
            "sections": [
                {
                    "title": "Cost",
                    "text": "Some text.",
                    "figure": side_by_side({"ms": {"plain": 1.0}}),
                    "caption": "A caption.",
                },
                {
                    "title": "Table",
                    "table": {"head": ["net", "ms"], "rows": [["<gated>", 1.25]]},
                },
            ],
            "provenance": {"seed": 7},
        },
    )
    page = path.read_text("utf-8")
    for text in (
        "<title>Nets &amp; gates</title>",
        "The lead.",
        "<b>0.71</b><span>of the time</span>",
        "Some text.",
        "<figcaption>A caption.</figcaption>",
        "<th>net</th><th>ms</th>",
        "<td>&lt;gated&gt;</td><td>1.25</td>",
        "<dt>seed</dt><dd>7</dd>",
    ):
        assert text in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    (image,) = [s.removeprefix("data:image/png;base64,") for s in sources]
    assert base64.b64decode(image, validate=True).startswith(PNG)
    assert "url(" not in page and "http" not in page


def test_only_the_title_is_needed(tmp_path):
    write_report(tmp_path / "page.html", {"title": "Bare"})
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Bare</h1>" in page
    assert "<section>" not in page and "None" not in page


def test_a_failure_leaves_the_old_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    section = {"title": "Figure", "figure": Broken()}
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(path, {"title": "New", "sections": [section]})
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_what_the_page_would_not_show_is_refused(tmp_path):
    path = tmp_path / "page.html"
    for context in ({}, {"title": "T", "foot": "note"}):
        with pytest.raises(ValueError, match="`context`"):
            write_report(path, context)
    for section in ({"text": "no title"}, {"title": "S", "picture": None}):
        with pytest.raises(ValueError, match="A section"):
            write_report(path, {"title": "T", "sections": [section]})
    with pytest.raises(ValueError, match="`path`"):
        write_report(tmp_path / "missing" / "page.html", {"title": "T"})
    assert not path.exists()


def test_missing_jinja2_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[examples\]"):
        write_report(tmp_path / "page.html", {"title": "T"})
