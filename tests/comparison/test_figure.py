"""The figure of a comparison draws any name of a strategy or a set as it is written."""

import struct
import warnings

import pytest
from hostile import NAMES

from hf_instructmine.comparison.figure import Panel, draw_differences, plot_differences
from hf_instructmine.comparison.outcomes import Outcome
from hf_instructmine.comparison.statistics import Difference


HOSTILE = "$\\frac{1$"  # which fails where it is read as mathematics


def test_names_of_strategies_and_sets_are_text(tmp_path):
    difference = Difference(-0.1, -0.2, -0.05, 0.01, 0.01)
    outcome = Outcome("size=8", HOSTILE, HOSTILE, 3, 8, 90, 4, 2.0, 0.1, difference, 0.01)
    panels = [[Panel(f"{HOSTILE}, size=8", [outcome])], [Panel("size=16", [outcome, outcome])]]
    plot_differences(panels, tmp_path / "figure.png", HOSTILE)
    png = (tmp_path / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20]) == (1400,)


def outcome(name: str, low: float = -0.2) -> Outcome:
    return Outcome("size=8", name, name, 3, 8, 90, 4, 2.0, 0.1, Difference(low / 2, low, low / 4, 0.01, 0.01), 0.01)


def test_it_says_what_its_colours_mean_and_which_side_is_better():
    figure = draw_differences([[Panel("mine, size=8", [outcome("rule"), outcome("longest", 0.2)])]], "random")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "better", "worse", "not shown to differ (p ≥ 0.05 or the interval holds 0)",
    ]  # fmt: skip
    label = figure.get_supxlabel()
    assert label.startswith("← better than random") and label.endswith("worse →")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_without_a_warning(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_differences([[Panel(f"{name}, size=8", [outcome(name)])]], tmp_path / "figure.png", name)


@pytest.mark.parametrize("suffix, begins", [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_says_the_form(suffix, begins, tmp_path):
    plot_differences([[Panel("mine", [outcome("rule")])]], tmp_path / f"figure.{suffix}", "random")
    assert (tmp_path / f"figure.{suffix}").read_bytes().startswith(begins)
