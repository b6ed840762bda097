"""What a reader of the docs may count on."""

import re
from pathlib import Path

import pytest

import hf_instructmine as him


ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "recipes", "metrics")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_no_inner_module(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"\b(?:him|hf_instructmine)\.(\w+)", text))
    lines = re.findall(r"from hf_instructmine import ([\w, ]+)", text)
    assert named | {name.strip() for line in lines for name in line.split(",")} <= set(him.__all__)
