"""A figure's text is text, its size is what a card has room for, and its file does not say what drew it."""

import io
import warnings

import matplotlib
import pytest
from PIL import Image

from hf_instructmine import InstructMineError
from hf_instructmine.outputs import plots
from hf_instructmine.outputs.plots import canvas, save


# Mathematics that is not valid, which fails where it is read as such.
HOSTILE = "$\\frac{1$ and $x_"


def plot():
    figure, ((left, right),) = canvas(3, columns=2)
    for axes in (left, right):
        axes.plot([1, 2], [1, 2], label=HOSTILE)
        axes.set_title(HOSTILE)
        axes.set_xlabel(HOSTILE)
        axes.set_yticks([1, 2], [HOSTILE, "b"])
        axes.annotate(HOSTILE, (1, 1))
        axes.legend()
    figure.supxlabel(HOSTILE)
    return figure


def test_dollars_are_text_wherever_they_stand(tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):  # a user's own settings
        save(plot, tmp_path / "new" / "figure.png")
    with Image.open(tmp_path / "new" / "figure.png") as image:
        assert image.format == "PNG" and image.size == (700, 300)
        assert not image.info.keys() - {"dpi"}


def test_a_buffer_gets_the_same_picture_as_a_file(tmp_path):
    buffer = io.BytesIO()
    save(plot, buffer, dpi=200)
    save(plot, tmp_path / "figure", dpi=200)
    assert (tmp_path / "figure").read_bytes() == buffer.getvalue()


@pytest.mark.parametrize("suffix, begins", [("png", b"\x89PNG"), ("SVG", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_says_the_form_and_the_same_figure_is_the_same_file(suffix, begins, tmp_path):
    for name in ("one", "two"):
        save(plot, tmp_path / f"{name}.{suffix}")
    one = (tmp_path / f"one.{suffix}").read_bytes()
    assert one.startswith(begins) and one == (tmp_path / f"two.{suffix}").read_bytes()
    assert b"matplotlib.org" not in one.lower() or suffix == "SVG"


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(InstructMineError, match=r"figure\.jpg' is no name of a figure: end it in .png, .svg or .pdf"):
        save(lambda: 1 / 0, tmp_path / "figure.jpg")


def named(name: str):
    def plot():
        figure, ((axes,),) = canvas(2)
        axes.set_yticks([0, 1], [name, "b"])
        return figure

    return plot


@pytest.mark.parametrize(
    "name", ["数据 한국어", "عربي می\u200cشود", "हिन्दी ไทย", "\U0001f469\u200d\U0001f467", "\x1b[2J\U000f0000"]
)
def test_names_of_any_script_are_drawn_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(named(name), io.BytesIO())


def test_where_no_font_has_a_character_the_figure_says_so(monkeypatch):
    monkeypatch.setattr(plots, "_font_of", lambda character: None)
    assert (
        plots._with_fonts(named("数据"), "数据").get_supylabel() == "a box: no font of this machine has the character"
    )
    assert plots._with_fonts(named("a\x1b"), "\x1b").get_supylabel() == ""  # it stands for nothing to be seen
