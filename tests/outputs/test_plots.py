"""A figure's text is text, its size is what a card has room for, and its file does not say what drew it."""

import io

import matplotlib
from PIL import Image

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
