"""Every figure of a result can be had in three forms, and as a table that holds the numbers which are drawn."""

from typing import Any

import numpy as np
import pytest
from shown_results import RESULTS

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.shown import Drawn


MADE = {what: make("mine") for what, make in RESULTS.items()}
FIGURES = [(what, name) for what, one in MADE.items() if isinstance(one, Drawn) for name in one.figures]


def drawn(axes: Any) -> np.ndarray:
    """What stands for data in a panel: points, bars, ends of bars, cells of a picture."""
    numbers: list[Any] = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
    numbers += [[bar.get_height(), bar.get_width()] for bar in axes.patches if bar.get_alpha() is None]  # not a span
    numbers += [segment for lines in axes.collections for segment in getattr(lines, "get_segments", list)()]
    numbers += [picture.get_array() for picture in axes.images]
    return np.concatenate([np.ravel(part) for part in numbers]) if numbers else np.empty(0)


@pytest.mark.parametrize("what", dict(FIGURES))
@pytest.mark.parametrize("suffix, begins", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_has_the_form_of_its_suffix(what, suffix, begins, tmp_path):
    path = tmp_path / "new" / f"figure.{suffix}"
    MADE[what].plot(path)
    assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize("what, name", FIGURES)
def test_the_table_has_the_numbers_of_the_figure(what, name):
    table = MADE[what].to_pandas(figure=name)
    assert len(table) > 0 and MADE[what].figures[name]
    figure = MADE[what]._drawings()[name].draw()
    seen = np.concatenate([drawn(axes) for axes in figure.axes])
    numbers = table.select_dtypes("number").to_numpy().ravel()
    known = numbers[np.isfinite(numbers)]
    # Every point is in the table: as it is, as a place of a row in a panel, or as the width of a bar between two ends.
    rows = np.arange(len(table) + 1)
    widths = (table["high"] - table["low"]).to_numpy() if "low" in table else np.empty(0)
    among = np.concatenate([known, rows, 1.02 * known, 0.5 * np.ones(1), widths[np.isfinite(widths)]])
    assert all(np.isclose(among, value, rtol=1e-9, atol=1e-12).any() for value in seen[np.isfinite(seen)])


def test_all_that_draws_is_looked_at():
    assert {what for what, _ in FIGURES} == {
        "fitted rule", "chosen rule", "selection", "comparison", "design report", "size report",
    }  # fmt: skip
    names = [name for what, name in FIGURES if what == "chosen rule"]
    assert names == ["predicted_measured", "coefficients", "residuals", "leverage", "correlation", "added_variable"]


def test_the_table_of_a_comparison_has_what_its_outcomes_have():
    one = MADE["comparison"]
    row = one.to_pandas().iloc[0]
    outcome = next(o for o in one.outcomes("tokens=9", "tests") if o.strategy == "mine")
    assert (row["strategy"], row["difference"]) == ("mine", outcome.difference.estimate)
    assert (row["low"], row["high"]) == (outcome.difference.low, outcome.difference.high)
    assert one.to_pandas("mine")["strategy"].tolist() == ["random"]


def test_another_suffix_is_refused(tmp_path):
    for what, name in FIGURES:
        with pytest.raises(InstructMineError, match=r"end it in .png, .svg or .pdf"):
            MADE[what].plot(tmp_path / "figure.jpg", figure=name)
