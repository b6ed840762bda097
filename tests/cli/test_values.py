"""What is written on the command line as text: indicators with their arguments, mappings, rules."""

import pytest

import hf_instructmine as him
from hf_instructmine import InstructMineError, UniEval
from hf_instructmine.cli.values import build_indicator, build_indicators, read_settings
from hf_instructmine.data.inputs import parse_mapping
from hf_instructmine.indicators import INDICATORS, find_indicator, known_names
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


@pytest.mark.parametrize(
    "text, kind, names",
    [
        ("mtld", "MTLD", ("mtld",)),
        ("Mtld", "MTLD", ("mtld",)),
        ("perplexity,model=m", "Perplexity", ("perplexity",)),
        ("nll,model=m", "Perplexity", ("perplexity", "nll")),
        ("NLL,model=m,also=[ifd,nll]", "Perplexity", ("perplexity", "ifd", "nll")),
        ("end_of_turn,model=m", "Perplexity", ("perplexity", "end_of_turn")),
        ("knn_3,model=m", "NeighborDistance", ("knn_3",)),
        ("coherence,model=m", "UniEval", ("coherence",)),
        ("coherence,model=m,dimensions=naturalness", "UniEval", ("naturalness", "coherence")),
        ({"output_length": {"tokenizer": "t"}}, "OutputLength", ("output_length",)),
    ],
)
def test_an_indicator_goes_by_the_name_of_a_column_that_it_makes(text, kind, names):
    built = build_indicator(text, None)
    assert (type(built).__name__, built.names) == (kind, names)


def test_columns_of_one_model_are_one_indicator():
    texts = ["perplexity,model=m", "nll,model=m", "mtld", "ifd,model=m", "nll,model=n", "coherence,model=u"]
    built = build_indicators([*texts, "naturalness,model=u"], None)
    assert [one.names for one in built] == [
        ("perplexity", "nll", "ifd"), ("mtld",), ("perplexity", "nll"), ("coherence", "naturalness"),
    ]  # fmt: skip
    # All dimensions and one of them are not one wish.
    assert len(build_indicators(["UniEval,model=u", "coherence,model=u"], None)) == 2


def test_every_column_of_an_indicator_can_be_named():
    needed = {"OutputLength": "tokenizer=t", "InputLength": "tokenizer=t", "MTLD": "threshold=0.7"}
    for name in known_names():
        indicator, _ = find_indicator(name)
        built = build_indicator(f"{name},{needed.get(indicator, 'model=m')}", None)
        assert name in (*built.names, type(built).__name__)


def test_every_public_indicator_can_be_named():
    public = {name: getattr(him, name) for name in him.__all__}
    known = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, Indicator)}
    assert known == set(INDICATORS)


@pytest.mark.parametrize(
    "indicator, message",
    [
        ("Mtdl", "there is no indicator 'Mtdl': did you mean 'mtld'? known are InputLength, OutputLength,"),
        (
            "MTLD,treshold=0.5",
            "MTLD has no argument 'treshold': did you mean 'threshold'? known are threshold, columns, turns",
        ),
        ("knn_6,model=m,i=3", "NeighborDistance,i=3 contradicts itself: the column is of i=6"),
        ("MTLD,threshold=7", "threshold must be between 0 and 1, not 7"),
        ("MTLD,0.5", "'0.5' is not of the form key=value"),
        ("MTLD,threshold=[0.5", "'threshold=[0.5' cannot be read: while parsing a flow sequence"),
        ("Perplexity", "Perplexity needs model: write Perplexity,model=…"),
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


def test_settings_are_read_as_a_recipe_is():
    texts = ["learning_rate=1e-4", "max_steps=8", "lora_target_modules=[q_proj,v_proj]", "use_peft=false", "seed="]
    assert read_settings(texts) == {
        "learning_rate": 1e-4, "max_steps": 8, "lora_target_modules": ["q_proj", "v_proj"], "use_peft": False,
        "seed": None,
    }  # fmt: skip
    assert read_settings([{"max_steps": 8}, "warmup_steps=2"]) == {"max_steps": 8, "warmup_steps": 2}


@pytest.mark.parametrize(
    "texts, message",
    [
        (["1e-4"], "--set '1e-4' is not of the form KEY=VALUE, such as learning_rate=1e-4"),
        (["=1e-4"], "is not of the form KEY=VALUE"),
        (["seed=1", "seed=2"], "--set gives 'seed' twice"),
    ],
)
def test_settings_that_make_no_sense_are_told(texts, message):
    with pytest.raises(InstructMineError, match=message):
        read_settings(texts)
