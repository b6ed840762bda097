"""The documentation site: what has a page, that it is built without a warning, and that it needs no network."""

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hf_instructmine as him
from hf_instructmine.cli.main import parsers


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
VERBS = list(parsers()[1])


def blocks(page: Path, directive: str) -> list[str]:
    """What stands in the page's blocks of a directive."""
    return re.findall(rf"^```{{{directive}}}(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def tool(monkeypatch):
    """Imports a module of `tools/` or of the site's own extensions."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    return importlib.import_module


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    for needed in ("furo", "myst_nb", "sphinx"):
        pytest.importorskip(needed, reason="pip install 'hf-instructmine[docs]'")
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-c", DOCS, "-d", folder / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, ROOT, folder / "html"]
    built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_each_public_name_stands_on_one_page_of_the_api():
    lines = [line for page in (DOCS / "api").glob("*.md") for block in blocks(page, "names") for line in block.split()]
    named = Counter(line for line in lines if "." not in line and not line.startswith(":"))
    assert named == Counter(set(him.__all__) - {"__version__"})


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_page_with_an_example_and_its_options(verb):
    page = DOCS / "verbs" / f"{verb}.md"
    assert [block.strip() for block in blocks(page, "options")] == [verb]
    examples = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [example.split()[:2] for example in examples] == [["instructmine", verb]]
    assert f"verbs/{verb}\n" in (DOCS / "index.md").read_text("utf-8")


def test_no_page_is_about_a_verb_that_is_not_there():
    assert {page.stem for page in (DOCS / "verbs").glob("*.md")} == set(VERBS)


def test_the_options_of_the_site_are_those_of_the_parser(site):
    page = (site / "docs/verbs/sweep.html").read_text("utf-8")
    assert '<span class="pre">--num-runs</span>' in page and "subsets trained twice (4 if not given)" in page


def test_a_docstring_becomes_a_signature_with_its_arguments_and_links(site):
    page = (site / "docs/api/sweep.html").read_text("utf-8")
    assert "<strong>num_runs</strong>" in page and "[`" not in page
    assert 'href="#hf_instructmine.design_mixtures"' in page


def test_no_page_loads_anything_from_another_host(site, tool):
    assert tool("check_site").remote_loads(site) == []


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img srcset="small.png 1x, https://cdn.example/large.png 2x">',
        '<p style="background: url(https://cdn.example/x.png)"></p>',
        "<style>@import 'https://cdn.example/x.css';</style>",
    ],
)
def test_a_remote_load_is_found(tmp_path, tool, page):
    (tmp_path / "page.html").write_text(page)
    assert len(tool("check_site").remote_loads(tmp_path)) == 1


def test_a_link_that_a_reader_follows_is_no_load(tmp_path, tool):
    (tmp_path / "page.html").write_text('<a href="https://a.example">a</a><img src="data:image/png;base64,AA==">')
    assert tool("check_site").remote_loads(tmp_path) == []


def test_search_works_from_a_folder(site, browser):
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=leverage")
    page.wait_for_selector("ul.search li a")
    assert "Glossary" in page.inner_text("ul.search")
    page.close()


@pytest.mark.parametrize("name", ["index", "results", "glossary", "api/sweep", "verbs/compare"])
def test_a_page_fits_a_phone(site, browser, name):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((site / f"docs/{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_links_out_of_the_docs_lead_to_the_repository(tool):
    repository = tool("repository") if pytest.importorskip("sphinx") else None
    text = "[recipes](../recipes/README.md), [code](../tools/pins.py), [tasks](../recipes/tasks/), [none](../none.py)"
    read = repository.at_home(text, DOCS / "x.md", ROOT)
    assert "(../recipes/README.md)" in read and "(../none.py)" in read
    assert "/blob/main/tools/pins.py)" in read and "/tree/main/recipes/tasks)" in read


def test_a_docstring_in_hugging_faces_form_is_read(tool):
    pytest.importorskip("sphinx")
    to_rst = tool("docstrings").to_rst
    assert to_rst("The `nll`s of [`score`]") == "The ``nll``\\ s of :py:obj:`~hf_instructmine.score`"
    assert to_rst("See [`~parts.Protocol`]") == "See :py:obj:`~.Protocol`"
    assert to_rst("As [`Selector.select`]") == "As :py:obj:`Selector.select <hf_instructmine.Selector.select>`"
    example = to_rst("Example:\n\n```python\nx = 1\n```")
    assert example == ".. rubric:: Example\n\n.. code-block:: python\n\n   x = 1\n"
