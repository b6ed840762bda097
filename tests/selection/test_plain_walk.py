"""However it is made quick, a selection is what a plain walk over a sorted pool takes, row by row."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import InstructMineError, LossEstimator, Selector
from hf_instructmine.selection import order, ranking, walk


RULE = LossEstimator.from_coefficients({"mtld": 1.0})
SOURCES = ("web", "book", "code")


def a_pool(seed: int, rows: int = 60) -> Dataset:
    """Few values, so that many rows are equal; rows without a value, without a response, and copies."""
    rng = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "prompt": [f"q{i}" for i in rng.integers(0, 8, rows)],
            "completion": [["a", "b", "c", ""][i] for i in rng.integers(0, 4, rows)],
            "source": [SOURCES[i] for i in rng.integers(0, 3, rows)],
            "mtld": [float(v) if v else float("nan") for v in rng.integers(0, 6, rows)],
            "output_length": rng.integers(1, 9, rows),
        }
    )


def plain(scored: Dataset, size: int, quotas: dict[str, tuple[int, int]]) -> list[int]:
    """First each source's least, then all of them up to their most; `quotas` are in rows."""
    values, rows = np.array(scored["mtld"]), scored.to_list()
    order = [i for i in np.argsort(values, kind="stable").tolist() if values[i] == values[i]]
    taken: list[int] = []

    def go(bound):
        for i in order:
            source, same = rows[i]["source"], (rows[i]["prompt"], rows[i]["completion"])
            copies = {(rows[j]["prompt"], rows[j]["completion"]) for j in taken}
            held = sum(rows[j]["source"] == source for j in taken)
            if len(taken) < size and i not in taken and same[1] and same not in copies and held < bound(source):
                taken.append(i)

    go(lambda source: quotas[source][0])
    go(lambda source: quotas[source][1])
    return sorted(taken, key=lambda i: (values[i], i))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_the_rows_are_those_of_the_plain_walk_in_its_order(seed, size, with_quotas):
    scored = a_pool(seed)
    shares = {"web": (0.25, 0.5), "code": (None, 0.25)} if with_quotas else {}
    bounds = {name: shares.get(name, (None, None)) for name in SOURCES}
    up = {name: int(np.ceil((least or 0) * size - 1e-9)) for name, (least, _) in bounds.items()}
    down = {name: int(np.floor((1 if most is None else most) * size + 1e-9)) for name, (_, most) in bounds.items()}
    if any(up[name] > down[name] for name in SOURCES) or sum(down.values()) < size or sum(up.values()) > size:
        return  # whole rows meet no such shares: the quotas are loosened
    expected = plain(scored, size, {name: (up[name], down[name]) for name in SOURCES})
    with pytest.MonkeyPatch.context() as patch:  # so that even here there are heads and blocks
        patch.setattr(order, "_FIRST", 3)
        patch.setattr(order, "_GROWTH", 2)
        patch.setattr(ranking, "_AHEAD", 8)
        for module in (ranking, walk):
            patch.setattr(module, "BLOCK", 4)
        selector = Selector(RULE, quotas=shares or None)
        if len(expected) < size:
            with pytest.raises(InstructMineError):
                selector.select(scored, size=size)
            return
        selection = selector.select(scored, size=size)
    assert selection.indices.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["size", "tokens"]), st.booleans())
def test_small_blocks_change_nothing_of_what_is_taken_or_told(seed, kind, by_length):
    scored = a_pool(seed, 90)
    options = {"length_bins": 3} if by_length else {"quotas": {"web": (0.2, 0.5), "book": (0.1, None)}}

    def told():
        try:
            found = Selector(RULE, **options).select(scored, **{kind: 12})
        except InstructMineError as error:
            return str(error)
        return found.indices.tolist(), found.decisions.codes.tolist(), found.skipped

    whole = told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", 2)
        patch.setattr(ranking, "_AHEAD", 2)
        for module in (ranking, walk):
            patch.setattr(module, "BLOCK", 1)
        assert told() == whole
