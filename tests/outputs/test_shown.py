"""Results are a short line in a console, their summary when printed, and tables and a figure in a notebook."""

import inspect
import re
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset
from hostile import NAMES
from shown_results import RESULTS, by_hand, plan, selection, status

import hf_instructmine as him
from hf_instructmine import InstructMineError, design_mixtures, design_report
from hf_instructmine.outputs.shown import MOST_CHARACTERS, MOST_ROWS, Cells, Drawn, Shown


# Tags and attributes of ours; nothing else may come out of any name.
OURS = {"div", "style", "p", "b", "table", "tr", "th", "td", "img", "details", "summary", "pre"}
FORBIDDEN = {"\x1b", "\x9b", "\u202e"}
# In the place of a name; every kind at once, as each class is made anew for it.
HOSTILE = ["<script>alert(1)</script>\x1b[31m|</td></tr></table><img src=x onerror=alert(1)>", "x" * 5000]


@pytest.fixture(scope="module")
def made():
    return {what: make("mine") for what, make in RESULTS.items()}


class Page(HTMLParser):
    """The tags, attributes and text of a piece of HTML, of which every tag has to be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = set(), [], "", []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("what", RESULTS)
def test_a_line_in_a_console_whatever_is_in_it(made, what):
    one = made[what]
    assert isinstance(one, Shown) and repr(one).startswith(f"<{type(one).__name__}: ") and repr(one).endswith(">")
    assert len(repr(one)) <= MOST_CHARACTERS and "\n" not in repr(one) and repr([one]) == f"[{one!r}]"
    assert str(one) == (one.summary() if hasattr(one, "summary") else str(one)) and "object at 0x" not in str(one)


@pytest.mark.parametrize("what", RESULTS)
def test_a_notebook_shows_it_and_fetches_nothing(made, what):
    page = Page(made[what]._repr_html_())
    assert page.tags <= OURS and type(made[what]).__name__ in page.text
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"(?<!image/png;base64,)https?://|url\(|@import", made[what]._repr_html_())
    assert len(made[what]._repr_html_()) < 400_000 and ("img" in page.tags) == bool(getattr(made[what], "figures", ()))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("what", RESULTS)
def test_no_name_is_markup_in_a_notebook_or_a_command_in_a_console(what, name):
    one = RESULTS[what](name)
    assert not FORBIDDEN & set(repr(one)) and len(repr(one)) <= MOST_CHARACTERS
    html = one._repr_html_()
    assert Page(html).tags <= OURS and not FORBIDDEN & set(html)
    assert {name for name, _ in Page(html).attributes} <= {"class", "src", "alt", "open"}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_at_all_is_markup(name):
    for make in (by_hand, plan, status):
        one = make(name)
        assert Page(one._repr_html_()).tags <= OURS
        assert not {*FORBIDDEN, "\n", "\r"} & set(repr(one))


def test_no_colour_of_ours_stands_on_the_background_of_a_theme():
    style = re.search("<style>(.*)</style>", by_hand()._repr_html_())[1]
    colours = re.findall(r"(?<![-\w])(?:background|color):([^;}]+)", style)
    assert sorted(colours) == ["#fff", "inherit"]  # white behind the figure, whose axes are dark


def test_what_says_itself_in_a_text_is_shown(made):
    """A class of ours that prints well and shows itself otherwise in a notebook is one that was forgotten."""
    told = [type(one) for one in made.values() if "__str__" in vars(type(one))]
    assert all(issubclass(kind, Shown) and kind.__repr__ is Shown.__repr__ for kind in told)


@pytest.mark.parametrize("what", RESULTS)
def test_help_names_each_attribute_in_a_line_of_its_own(made, what):
    kind = type(made[what])
    told = "\n".join(inspect.getdoc(base) or "" for base in kind.__mro__ if base is not object)
    if is_dataclass(kind):
        for field in fields(kind):
            assert re.search(rf"^ +{field.name} \(", told, flags=re.MULTILINE), f"{kind.__name__}.{field.name}"
    assert not re.search(r"^ +\w+(?: \([^)]*\))?, \w+ \(", told, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["LossEstimator", "Selection", "StrategyComparison", "Judgement", "Noise"])
def test_help_of_a_public_result_begins_with_its_attributes(name):
    told = inspect.getdoc(getattr(him, name))
    assert re.search(r"^Attributes:\n    \w+ \(", told, flags=re.MULTILINE)


def test_a_design_in_a_line():
    scored = Dataset.from_dict({"mtld": np.linspace(40, 80, 200), "reward": np.random.default_rng(0).normal(size=200)})
    mixtures = design_mixtures(scored, 12, subset_size=20, source_column=None, indicators=["mtld", "reward"])
    report = design_report(mixtures, scored, source_column=None)
    assert repr(report) == "<DesignReport: 12 mixtures and 4 replicates over mtld, reward>"
    assert len(str(report)) > len(repr(report))


def test_a_long_table_is_cut_and_says_so():
    html = Cells("Many", ["name", "n"], [[f"<{k}>", str(k)] for k in range(MOST_ROWS + 2)]).html()
    assert html.count("<tr>") == MOST_ROWS + 1 and "2 more rows" in html and "&lt;0&gt;" in html


def test_a_sweep_status_is_the_text_that_it_was(made):
    status = made["sweep status"]
    assert status.startswith("100 of 129") and len(status.splitlines()) == 101 and f"{status}" == str(status)
    assert repr(status) == "<SweepStatus: 100 of 129 runs done, 0 failed, 1 running, 28 to do>"


def test_another_figure_is_refused_with_those_that_there_are(tmp_path):
    class Nothing(Drawn):
        def _line(self):
            return "nothing"

        def _drawings(self):
            return {}

    with pytest.raises(InstructMineError, match="there is no figure 'pie': there is predicted_log_loss"):
        selection().plot(tmp_path / "pie.png", figure="pie")
    with pytest.raises(InstructMineError, match="<Nothing: nothing> has no figure"):
        Nothing().to_pandas()
