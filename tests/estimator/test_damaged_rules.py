"""A rule's file that was damaged, or made by somebody else: one line when it is opened, or a rule that works."""

import json
import random
from copy import deepcopy
from pathlib import Path

import pytest
from simulated_runs import simulated_runs

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.estimator import file as estimator_file


@pytest.fixture(scope="module")
def runs():
    return simulated_runs(n=40, seed=1)


@pytest.fixture(scope="module")
def rule(runs) -> LossEstimator:
    return LossEstimator.fit(
        runs, logged=["output_length"], covariates=["subset_size"], permutations=20, bootstraps=50
    )


@pytest.mark.parametrize(
    "damage, what",
    [
        (lambda text: text.replace('"intercept": ', '"intercept": NaN, "x": ').encode(), "is not JSON"),
        (lambda text: text.replace('"intercept": ', '"intercept": 1e999, "x": ').encode(), "is not JSON"),
        (lambda text: text.encode("utf-16"), "is not UTF-8 text"),
        (lambda text: b"[" * 200_000, "is nested more than 64 deep"),
        (lambda text: text[:-100].encode(), "is not JSON"),
        (lambda text: b"", "is not JSON"),
        (lambda text: b"[]", "is not a rule of hf-instructmine"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": true').encode(),
            "has schema version True, which there is not",
        ),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": -5').encode(),
            "has schema version -5, which there is not",
        ),
    ],
)
def test_a_damaged_file_is_one_line(rule, tmp_path, damage, what):
    (tmp_path / "estimator.json").write_bytes(damage(rule.to_json()))
    with pytest.raises(InstructMineError, match=f"^'{tmp_path}/estimator.json' {what}") as error:
        LossEstimator.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def places(value, place=()):
    """Every field of the content at every depth; of a list, its first item."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


def changed(content: dict, place: tuple, value) -> dict:
    content = deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


# Any of them may be in a field that is free: what made a column, which runs there were.
WRONG = (None, "x", 5, -1.5, True, [], {}, [[1]], {"a": 1}, ...)


@pytest.mark.parametrize("published", [True, False])
def test_whatever_stands_in_whichever_field_it_is_refused_in_one_line_or_the_rule_works(
    rule, runs, tmp_path, published
):
    rule = LossEstimator.from_published("instructmining-v2") if published else rule
    content = json.loads(json.dumps(estimator_file._plain(estimator_file.content_of(rule))))
    every = [(place, value) for place in places(content) if place for value in WRONG]
    refused = 0
    for place, value in random.Random(0).sample(every, min(len(every), 600)):
        (tmp_path / "estimator.json").write_text(estimator_file.dumps(changed(content, place, value)), "utf-8")
        try:
            found = LossEstimator.from_pretrained(tmp_path)
        except InstructMineError as error:
            assert "\n" not in str(error) and len(str(error)) < 400 + len(str(tmp_path)), place
            refused += 1
            continue
        assert found.summary() and found.to_json(), (place, value)
        if not published:
            found.predict_subset(runs, [1, 2])
    assert refused > len(every) / 4 or refused > 200


def test_the_content_of_another_rule_is_no_part_of_this_one(rule, tmp_path):
    content = estimator_file.content_of(rule)
    for changes in (
        {"terms": content["terms"][:1]},
        {"covariates": []},
        {"fit": {**content["fit"], "gram_inverse": [[1.0]]}},
    ):
        (tmp_path / "estimator.json").write_text(estimator_file.dumps({**content, **changes}), "utf-8")
        with pytest.raises(InstructMineError, match=r"does not hold a rule .*'fit\.\w+' is not of \d regressors"):
            LossEstimator.from_pretrained(tmp_path)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    Path(tmp_path, "estimator.json").mkdir()
    with pytest.raises(InstructMineError, match="holds no rule"):
        LossEstimator.from_pretrained(tmp_path)
