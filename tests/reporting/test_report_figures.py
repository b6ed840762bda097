"""A report's figures: of any names, in any script, and not too heavy."""

import shutil
import warnings
import xml.etree.ElementTree as ET
from base64 import b64decode
from functools import partial

import numpy as np
import pytest

from hf_instructmine.outputs.plots import canvas, save
from hf_instructmine.reporting.figures import draw_against_indicators, picture


def svg_of(shown) -> str:
    return b64decode(shown.source.removeprefix("data:image/svg+xml;base64,")).decode()


def texts(svg: str) -> list[str]:
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def titled(title: str):
    def plot():
        figure, ((axes,),) = canvas(2)
        axes.set_title(title)
        return figure

    return lambda path: save(plot, path)


@pytest.mark.parametrize(
    "title, shown",
    [
        ("<script>alert(1)</script> & $x$", "<script>alert(1)</script> & $x$"),
        ("a\x00b\x1bc\ufffe", "a�b�c�"),
        ("\u202egnp.exe\u2069", "�gnp.exe�"),
        ("東京 العربية 🙂", "東京 العربية 🙂"),
    ],
)
def test_a_name_stays_text_in_any_script_and_without_a_warning(title, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = svg_of(picture(titled(title), "", ""))
    assert shown in texts(svg)


def test_a_figure_is_an_image_that_asks_for_nothing_and_is_the_same_each_time():
    first, second = (picture(titled("a"), "what it shows", "how to read it") for _ in range(2))
    assert first == second and (first.alt, first.caption) == ("what it shows", "how to read it")
    assert "text{white-space:pre}" in svg_of(first)  # in which axes tell their sides apart
    assert "<script" not in svg_of(first) and "<image" not in svg_of(first)


def test_many_rows_are_drawn_by_a_few_and_the_selected_ones_by_another_shape():
    generator, n = np.random.default_rng(0), 50_000
    log_loss = generator.normal(size=n)
    log_loss[:10] = np.nan
    indicators = {"mtld": generator.lognormal(size=n), "perplexity": generator.lognormal(0, 3, n)}
    selected = log_loss < -1
    shown = picture(partial(draw_against_indicators, log_loss, indicators, {"mtld"}, selected), "", "")
    svg = svg_of(shown)
    assert {"500 not selected", "250 selected", "mtld (log scale)", "perplexity (log scale)"} <= set(texts(svg))
    assert len(shown.source) < 400_000


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, -1.0, np.nan], [5.0, np.nan, np.nan]])
def test_odd_columns_are_drawn(values):
    indicators = {"one": np.array(values), "two": np.arange(3.0), "three": np.arange(3.0)}
    draw = partial(draw_against_indicators, np.array([1.0, 2.0, 3.0]), indicators, {"one"}, None)
    assert "3 rows" in texts(svg_of(picture(draw, "", "")))


def test_every_figure_of_a_report_is_drawn_with_hostile_names(copied):
    import hf_instructmine as him
    from hf_instructmine.outputs.records import Records

    name = "<b>東京</b>\x00 $x$"
    records = Records(copied / "comparison")
    for path in [records.folder / "comparison.json", *(records.folder / "runs").iterdir()]:
        record = records.read(path)
        text = records.read(path)
        if "mixture" in text:
            text["mixture"]["strategy"] = text["mixture"]["strategy"].replace("rule", name)
        else:
            text = {**record, "strategies": [one.replace("rule", name) for one in record["strategies"]]}
        records.write(path, text)
    shutil.rmtree(copied / "search")
    page = him.report(copied).read_text("utf-8")
    assert "&lt;b&gt;東京&lt;/b&gt;� $x$" in page and "<b>東京" not in page and "\x00" not in page
