"""The figure of a comparison draws any name of a strategy or a set as it is written."""

import struct

from hf_instructmine.comparison.figure import Panel, plot_differences
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
