"""One HTML page that holds everything: figures, tables and how they were made.

    write_report(
        "report.html",
        {
            "title": "Gated ResNet-20 on digits",
            "highlights": [{"value": "0.71", "label": "of the plain net's time"}],
            "sections": [{"title": "Cost", "text": "...", "figure": figure}],
        },
    )

Needs matplotlib for figures and jinja2: `pip install keras_dyngate[examples]`.
"""

import base64
import io
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

from keras_dyngate import __version__
from keras_dyngate._files import writable_target, write_whole

_KEYS = {"title", "lead", "highlights", "sections", "provenance"}
_SECTION_KEYS = {"title", "text", "table", "figure", "caption"}
_DPI = 160


def _refuse_unknown(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    if "title" not in given or set(given) - known:
        raise ValueError(
            f"{what} must hold 'title' and may hold {sorted(known - {'title'})}. "
            f"Received: {sorted(given)}"
        )


def _data_uri(figure: Any) -> str:
    """A figure as a PNG inside an address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_report(path: str | os.PathLike[str], context: Mapping[str, Any]) -> None:
    """Write a page that needs no other file; written whole or not at all.

    Args:
        path: Of the HTML file; an existing one is replaced at the very end.
        context: What the page says. `title` must be there; the rest may be left out:
            `lead` (the first paragraph), `highlights` (a list of `{"value", "label"}`),
            `sections` (a list of `{"title"}` and any of `text`, `figure` (matplotlib),
            `caption`, `table` (`{"head": [...], "rows": [[...], ...]}`)), and
            `provenance` (a dict: data, seed, hardware, command, ...). All text is
            escaped.

    Raises:
        ValueError: If `path` cannot be written, or the context holds a key that the
            page would not show.
        ImportError: If jinja2 is not installed.
    """
    target = writable_target("path", path)
    _refuse_unknown("`context`", context, _KEYS)
    sections = list(context.get("sections", ()))
    for section in sections:
        _refuse_unknown("A section", section, _SECTION_KEYS)
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "`write_report` needs jinja2. Install it with "
            "`pip install keras_dyngate[examples]`."
        ) from error
    source = resources.files(__package__).joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.from_string(source).render(
        title=context["title"],
        lead=context.get("lead"),
        highlights=context.get("highlights", ()),
        provenance=context.get("provenance", {}),
        version=__version__,
        sections=[
            {
                "title": section["title"],
                "text": section.get("text"),
                "table": section.get("table"),
                "caption": section.get("caption"),
                "image": _data_uri(section["figure"]) if "figure" in section else None,
            }
            for section in sections
        ],
    )
    write_whole(target, page.encode())
