"""The code of the guides runs, page by page, as it stands there."""

import re
from pathlib import Path

import keras
import pytest

GUIDES = sorted((Path(__file__).parents[1] / "docs" / "guides").glob("*.md"))

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the pages export files"
    ),
    pytest.mark.filterwarnings("ignore:The exit"),  # hardly taught
]


def test_there_is_one_for_each_method():
    assert {page.stem for page in GUIDES} >= {
        "gates",
        "lc-nets",
        "early-exits",
        "anytime",
    }


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_it_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert blocks
    scope = {"__name__": page.stem}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in links:
        target, _, anchor = link.partition("#")
        path = page.parent / target
        assert path.exists(), link
        titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
        named = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
        assert not anchor or anchor in named, link
