"""What README and its pages hold to: short sentences, terms with their meaning, links that lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MOST_WORDS = 25
GUIDES = [
    "README.md",
    "recipes/README.md",
    *(f"docs/{name}.md" for name in ("comparison", "demo", "estimator", "mixtures", "quick-start", "researchers")),
    *(f"docs/{name}.md" for name in ("results", "size-search", "sweep")),
]
# Words that say nothing to who meets them first. Each has its meaning beside it or in the glossary.
TERMS = ("replicate", "trunk", "leverage", "noise ceiling", "held-out", "D-optimal")


def prose(text: str) -> str:
    """The text without code, tables, headings, pictures and addresses; each item of a list begins a paragraph."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|<[^>]+>|!\[[^\]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\|.*$|^#+ .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^- ", "\n", text, flags=re.MULTILINE)


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose. A line that ends in a colon ends one too."""
    pieces = re.split(r"(?<=[.!?:;])[*_`)]*\s+|\n\s*\n", prose(text))
    return [" ".join(piece.split()) for piece in pieces if piece.strip(" \n*")]


def unexplained(text: str) -> list[str]:
    """Terms that stand in a page's prose and nowhere in a link to the glossary."""
    linked = " ".join(re.findall(r"\[([^\]]*)\]\([^)]*glossary\.md[^)]*\)", text)).lower()
    return [term for term in TERMS if term.lower() in prose(text).lower() and term.lower() not in linked]


def test_no_sentence_of_readme_is_long():
    assert [line for line in sentences(README) if len(line.split()) > MOST_WORDS] == []


@pytest.mark.parametrize("page", GUIDES)
def test_a_page_links_each_hard_term_to_its_meaning(page):
    assert unexplained((ROOT / page).read_text("utf-8")) == []


def test_a_long_sentence_and_an_unexplained_term_are_found():
    long = "It is " + "very " * 30 + "long."
    assert sentences(f"Short.\n\n{long}\n\n```bash\n{long}\n```") == ["Short.", long]
    assert unexplained("The leverage is high.") == ["leverage"]
    assert unexplained("The [leverage](docs/glossary.md#leverage) is high.") == []


@pytest.mark.parametrize("page", ["README.md", "docs/researchers.md", "docs/quick-start.md"])
def test_every_file_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text("utf-8")
    links = set(re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", text))
    named = {first or second for first, second in links if not (first or second).startswith("http")}
    assert {link for link in named if not (ROOT / page).parent.joinpath(link).exists()} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/researchers.md", "docs/quick-start.md"])
def test_every_heading_that_a_page_links_to_is_there(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*\.md)?#([^)]+)\)", (ROOT / page).read_text("utf-8")):
        file = (ROOT / page).parent.joinpath(target) if target else ROOT / page
        assert anchor in anchors(file.read_text("utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_to_cite_is_the_same_in_readme_and_in_citation_cff():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    (paper,) = cited["references"]
    entries = dict(re.findall(r"^@(\w+)\{.*?\n(.*?)^\}$", README, flags=re.MULTILINE | re.DOTALL))
    for entry, source in ((entries["misc"], cited), (entries["article"], paper)):
        fields = dict(re.findall(r"^  (\w+)\s*= \{(.*)\},?$", entry, flags=re.MULTILINE))
        assert fields["title"] == source["title"] and fields["url"] == source.get("url", cited.get("repository-code"))
        assert fields.get("year", "2023") == "2023" and fields.get("version", cited["version"]) == cited["version"]
    people = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert " and ".join(people) in entries["article"]
