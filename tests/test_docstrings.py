"""What `help(him.X)` tells: every argument, with its type, and an example; and the examples that show values hold."""

import ast
import doctest
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import hf_instructmine as him


PUBLIC = {name: getattr(him, name) for name in him.__all__ if callable(getattr(him, name))}
# A class tells of its arguments itself, a result of its attributes, its own or its base's.
METHODS = {
    f"{name}.{method.__name__}": method
    for name, found in PUBLIC.items()
    if inspect.isclass(found)
    for method in (getattr(member, "__func__", member) for member in vars(found).values())
    if inspect.isfunction(method) and not method.__name__.startswith("_")
}
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Examples that need nothing but the package.
SHOWN = [
    "MTLD",
    "score",
    "get_provenance",
    "to_prompt_completion",
    "load_sample_pool",
    "load_sample_evaluation",
    "design_mixtures",
    "load_eval_sets",
    "power",
    "usual_strategies",
    "LossEstimator.from_coefficients",
]


def docstring(found: Any) -> str:
    """The docstring, with those of the bases of a class below it."""
    of = [each for each in found.__mro__ if each is not object] if inspect.isclass(found) else [found]
    return "\n".join(inspect.getdoc(each) or "" for each in of if each.__module__.startswith(him.__name__))


def told(text: str) -> set[str]:
    """The arguments and attributes that a docstring tells of: `name (type): words`, or `name, name: words`."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", text + "\n", flags=re.MULTILINE)
    entries = re.findall(r"^    (\w+(?:, \w+)*)(?: \(|:)", "\n".join(sections), flags=re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def code(example: str) -> str:
    """An example without its prompts and what it prints."""
    return "".join(e.source for e in doctest.DocTestParser().get_examples(example)) or example


def parameters(found: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(found).parameters.values() if p.name not in ("self", "cls")]


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"InstructMineError"}))
def test_a_docstring_names_every_argument(name):
    assert {p.name for p in parameters(PUBLIC[name])} <= told(docstring(PUBLIC[name]))


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"InstructMineError"}))
def test_a_docstring_has_an_example_that_parses_or_a_source(name):
    methods = [method for found, method in METHODS.items() if found.startswith(f"{name}.")]
    text = "\n".join([docstring(PUBLIC[name]), *(inspect.getdoc(method) or "" for method in methods)])
    shown = [code(example) for example in EXAMPLE.findall(text)]
    # What a function finds is shown where the function is.
    assert shown or re.search(r"\d{4}\.\d{5}", text) or re.match(r"What \[`\w+`\] finds", text)
    for example in shown:
        ast.parse(example)
    assert {name for example in shown for name in re.findall(r"\bhim\.(\w+)", example)} <= set(him.__all__)


def test_a_docstring_that_lacks_an_argument_is_found():
    assert told(
        "Does.\n\nArgs:\n    a (`int`): One,\n        b: not this.\n    c, d: See [`x`].\n\nRaises:\n    e: No."
    ) == set("acd")


@pytest.mark.parametrize("name", sorted(PUBLIC | METHODS))
def test_every_argument_and_result_has_a_type(name):
    found = (PUBLIC | METHODS)[name]
    if not inspect.isclass(found):
        assert inspect.signature(found).return_annotation is not inspect.Signature.empty
    if name != "InstructMineError":
        assert [p.name for p in parameters(found) if p.annotation is p.empty] == []
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", SHOWN)
def test_the_values_of_an_example_are_those_that_come_out(name, capsys):
    text = inspect.getdoc((PUBLIC | METHODS).get(name) or getattr(him.LossEstimator, name.split(".")[1]))
    examples = EXAMPLE.findall(text)
    known = {"him": him, "LossEstimator": him.LossEstimator}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in examples:
        runner.run(doctest.DocTestParser().get_doctest(example, known, name, None, 0), clear_globs=False)
    assert runner.summarize(verbose=False) == (0, runner.tries) and runner.tries
    assert "Failed" not in capsys.readouterr().out
