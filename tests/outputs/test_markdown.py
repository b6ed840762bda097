"""Whatever text data brings along is shown as it is; tables, counts and sizes read as they should."""

import html

import pytest
from hostile import HOSTILE, NAMES, acted_on, foreign

from hf_instructmine.outputs.markdown import count, escape, fenced, printable, printable_lines, size_category, table


@pytest.mark.parametrize("hostile", NAMES)
def test_markdown_renders_it_as_it_is_written(hostile):
    markdown_it = pytest.importorskip("markdown_it", reason="pip install markdown-it-py")
    markdown = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    rendered = markdown.render(table(["a", "b"], [[escape(hostile), "end"]], text_columns=2))
    cell = rendered.split("<tbody>\n<tr>\n<td>")[1].split("</td>\n<td>end</td>")[0]
    assert "<" not in cell
    assert html.unescape(cell) == printable(hostile)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_acts_on_it(hostile):
    assert acted_on(escape(hostile)) == []
    assert "\n" not in escape(hostile)


@pytest.mark.parametrize("hostile", NAMES)
def test_no_name_makes_a_link_a_picture_a_heading_or_a_tag(hostile):
    pytest.importorskip("linkify_it", reason="pip install markdown-it-py linkify-it-py")
    assert (
        foreign(f"a {escape(hostile)} b\n\n{table(['a'], [[escape(hostile)]])}\n\nis **{escape(hostile)}**", "") == []
    )


def test_what_the_hub_would_take_for_a_formula_or_an_address_is_written_with_entities():
    assert escape(r"\(x\)") == "&#92;(x&#92;)" and escape("me@example.org") == "me&#64;example.org"


def test_joined_emoji_and_persian_stay_whole():
    family, goes = "\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u0634\u0648\u062f"
    assert escape(family) == printable(family) == family and escape(goes) == goes
    assert printable("a\u200bb\u2060\ufeff") == "a�b��"


def test_a_terminal_gets_lines_and_no_control_character():
    assert printable_lines("a\n\tb\x1b[2J\r\x9b\u202e") == "a\n\tb�[2J���"


def test_escape_keeps_ordinary_names_legible():
    for name in ("self-instruct", "OpenOrca/1M-GPT4", "wiki.how (en)", "Fragen & Größen"[:6], "データ", "v1.2"):
        assert escape(name) == name
    assert escape("self_instruct") == r"self\_instruct"


def test_no_run_of_backticks_closes_a_code_block():
    assert fenced("a ```` b").startswith("`````text\n")


def test_a_code_block_keeps_its_lines_and_shows_no_control_character():
    assert fenced("a\n\n  b\x1b[2J\u202e\ud800") == "```text\na\n\n  b�[2J��\n```"


def test_numbers_stand_to_the_right_of_the_text_columns():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert table(["a", "b"], [], text_columns=2) == "| a | b |\n| --- | --- |"


def test_one_is_one_and_none_are_several():
    assert [count(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert [count(n, "row has", "rows have") for n in (0, 1, 2)] == ["0 rows have", "1 row has", "2 rows have"]


@pytest.mark.parametrize(
    "rows, category",
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**9, "n>1B")],
)
def test_size_category(rows, category):
    assert size_category(rows) == category
