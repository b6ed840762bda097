"""What a reader of the docs may count on, and what is written in two places."""

import re
import tomllib
from pathlib import Path

import pytest
from test_house import WINGS

import hf_instructmine as him


ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "recipes", "metrics")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_no_inner_module(page):
    text = page.read_text("utf-8")
    # What `-m` runs is a command, and none to import.
    named = set(re.findall(r"(?<!-m )\b(?:him|hf_instructmine)\.(\w+)", text))
    lines = re.findall(r"from hf_instructmine import ([\w, ]+)", text)
    assert named | {name.strip() for line in lines for name in line.split(",")} <= set(him.__all__)


def test_contributing_shows_the_wings_in_their_order():
    table = re.findall(r"^\| `(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE)
    assert table == list(WINGS)


def test_before_a_commit_the_same_ruff_runs_as_in_make_lint():
    releases = re.findall(r"ruff==([\d.]+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert releases == re.findall(r"rev: v([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))


def test_a_wheel_carries_every_file_beside_the_modules():
    package = ROOT / "src/hf_instructmine"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    carried = {file for pattern in settings["package-data"]["hf_instructmine"] for file in package.glob(pattern)}
    modules = {file for file in package.rglob("*") if file.suffix in (".py", ".pyc")}
    assert {file for file in package.rglob("*") if file.is_file()} - modules == carried
