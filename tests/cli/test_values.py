"""What is written on the command line as text: indicators with their arguments, mappings, rules."""

import pytest

import hf_instructmine as him
from hf_instructmine import InstructMineError, UniEval
from hf_instructmine.cli.values import build_indicator
from hf_instructmine.data.inputs import parse_mapping
from hf_instructmine.indicators import INDICATORS
from hf_instructmine.indicators.base import Indicator


def test_an_indicators_arguments_are_read_as_yaml():
    built = build_indicator(
        "UniEval,model=some/model,dimensions=[naturalness,coherence],max_length=512,revision=v1", None
    )
    assert isinstance(built, UniEval)
    assert built.names == ("naturalness", "coherence")
    assert (built.max_length, built.source.revision) == (512, "v1")
    assert build_indicator("Perplexity,model=m,given=false", None).given is False
    assert build_indicator("MTLD,threshold=0.5", None).threshold == 0.5
    assert build_indicator({"MTLD": {"threshold": 0.5}}, None).threshold == 0.5
    assert build_indicator({"MTLD": None}, {"prompt": "a", "response": "b"}).columns == {
        "prompt": "a",
        "response": "b",
    }


def test_every_public_indicator_can_be_named():
    public = {name: getattr(him, name) for name in him.__all__}
    known = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, Indicator)}
    assert known == set(INDICATORS)


@pytest.mark.parametrize(
    "indicator, message",
    [
        ("Mtld", "there is no indicator 'Mtld': known are InputLength, OutputLength,"),
        ("MTLD,treshold=0.5", "MTLD: got an unexpected keyword argument 'treshold'"),
        ("MTLD,threshold=7", "threshold must be between 0 and 1, not 7"),
        ("MTLD,0.5", "'0.5' is not of the form key=value"),
        ("MTLD,threshold=[0.5", "'threshold=[0.5' cannot be read: while parsing a flow sequence"),
        ("Perplexity", "Perplexity: missing 1 required positional argument: 'model'"),
        ({"MTLD": {}, "UniEval": {}}, "is no indicator: write NAME,KEY=VALUE"),
        (7, "7 is no indicator: write NAME,KEY=VALUE"),
    ],
)
def test_an_indicator_that_makes_no_sense_is_told_in_one_line(indicator, message):
    with pytest.raises(InstructMineError) as error:
        build_indicator(indicator, None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mapping_may_be_text_or_already_one():
    assert parse_mapping("prompt=question, response=best answer") == {"prompt": "question", "response": "best answer"}
    assert parse_mapping({"prompt": "question"}) == {"prompt": "question"}
    assert parse_mapping(None) is None
    assert parse_mapping("") == {}
