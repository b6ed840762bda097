"""Which differences a comparison sees is known before it is made."""

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.comparison.power import SEVEN_SOURCES, Noise, check_examples, check_parts, least_parts, power
from hf_instructmine.comparison.statistics import compare_parts


NOISE = Noise(parts_sd=0.01, examples_sd=0.05, source="a test")


def test_it_prints_what_is_seen():
    seen = power(8, 252, noise=NOISE)
    assert str(seen) == (
        f"with 8 parts and 252 evaluation examples, a difference of {seen.detectable:.4f} nats is seen in 80 % of "
        "comparisons (noise: a test)"
    )
    assert "with 8 parts, 252 evaluation examples and 4 comparisons, a difference of" in str(power(8, 252, 4, NOISE))
    assert SEVEN_SOURCES.source in str(power())


def test_the_detectable_difference_is_the_one_seen_in_four_of_five():
    seen = power(6, 100, 3, NOISE)
    assert seen.chance(seen.detectable) == pytest.approx(0.8)
    assert seen.chance(-seen.detectable) == pytest.approx(0.8)
    assert seen.chance(0) == pytest.approx(0.05 / 3, abs=1e-4)


def test_more_parts_and_examples_see_more_and_more_comparisons_less():
    base = power(8, 100, 1, NOISE).detectable
    assert power(12, 100, 1, NOISE).detectable < base < power(8, 100, 4, NOISE).detectable
    assert power(8, 400, 1, NOISE).detectable < base < power(4, 100, 1, NOISE).detectable


def test_simulated_comparisons_see_as_many():
    rng, seen = np.random.default_rng(0), power(8, 100, 1, NOISE)
    tokens, difference = np.full(100, 50.0), seen.detectable
    called = []
    for _ in range(400):
        luck = rng.normal(0, NOISE.parts_sd, (8, 1)) + rng.normal(0, NOISE.examples_sd, 100)
        called.append(compare_parts((2.5 + difference + luck) * tokens, np.full((8, 100), 125.0), tokens).p < 0.05)
    assert np.mean(called) == pytest.approx(0.8, abs=0.05)


def test_too_few_parts_are_refused_with_the_number_that_would_do():
    assert [least_parts(comparisons) for comparisons in (1, 4, 10)] == [3, 4, 5]
    check_parts(4, 4)
    with pytest.raises(InstructMineError, match=r"parts=3 cannot give a verdict of 4 comparisons, .*: 4 parts or"):
        check_parts(3, 4)
    with pytest.raises(InstructMineError, match=r"parts=1 cannot give a verdict, .*: 3 parts or more would do"):
        check_parts(1)


def test_a_handful_of_evaluation_examples_is_refused():
    check_examples(20, "mine")
    with pytest.raises(InstructMineError, match=r"the evaluation set 'mine' has 8 examples, .*: 20 or more would do"):
        check_examples(8, "mine")


def test_what_compares_nothing_is_refused():
    for arguments, said in (((1, 20), "parts"), ((3, 1), "examples"), ((3, 20, 0), "comparisons"), ((2.5,), "parts")):
        with pytest.raises(InstructMineError, match=f"{said} must be a whole number of at least"):
            power(*arguments)


def test_noise_and_level_are_looked_at():
    for noise in ("small", Noise(-1.0, 0.1, "made up"), Noise(0.1, float("nan"), "made up")):
        with pytest.raises(InstructMineError, match="noise is a Noise of two finite SDs"):
            power(noise=noise)
    with pytest.raises(InstructMineError, match="level is a share above 0 and below 1, not 2"):
        power(level=2)
