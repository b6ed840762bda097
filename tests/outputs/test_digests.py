"""What is digested today has the digest that it had when the folders, rules and caches of old were written."""

import numpy as np
import pytest

from hf_instructmine.outputs.digests import digest, digest_of_text, fast_digest, row_digest


@pytest.mark.parametrize(
    "value, length, known",
    [
        ([3, 1, 2], 16, "649eda3a580ae019"),
        ({"b": 0.1, "a": [None, "é"]}, 16, "cc61454aa271554d"),
        ({"a": [None, "é"], "b": 0.1}, 8, "cc61454a"),
        (("mixture", 1e-17, float("nan")), 16, "ec0a6f52feac5dbb"),
    ],
)
def test_plain_data_has_the_digest_it_always_had(value, length, known):
    assert digest(value, length) == known


def test_a_text_has_as_many_digits_as_are_asked_for():
    assert digest_of_text("é") == "4a99557e4033c353"
    assert digest_of_text("é", 64) == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


def test_parts_are_digested_as_one_text_however_they_are_cut():
    assert fast_digest(["model", b"\x01\x02"]) == "xxh64:add80d74f560d800"
    assert fast_digest(["mo", "del", np.array([1, 2], np.uint8)]) == "xxh64:add80d74f560d800"
    assert fast_digest(["\ud800"]) == "xxh64:8b5127de56aa1f64"


def test_a_row_has_the_same_digest_as_text_and_as_bytes():
    assert row_digest("é") == row_digest("é".encode()) == bytes.fromhex("d4b1b0202b21bb84e60a3d272ecab0db")
