"""In which order a row is compared with those taken decides nothing."""

import numpy as np
import pytest

from hf_instructmine.selection import likeness
from hf_instructmine.selection.likeness import Taken


@pytest.mark.parametrize("bound", [0.2, 0.6, 0.95])
def test_blocks_and_tiles_give_the_greedy_choice(monkeypatch, bound):
    monkeypatch.setattr(likeness, "_FIRST", 2)
    monkeypatch.setattr(likeness, "_TILE", 3)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 6))
    vectors = centres[rng.integers(20, size=300)] + 0.3 * rng.normal(size=(300, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cosines, greedy = vectors @ vectors.T, []
    for row in range(300):
        if not any(cosines[row, other] > bound for other in greedy):
            greedy.append(row)
    taken, found = Taken(vectors, bound), []
    for start in range(0, 300, 7):
        rows = np.arange(start, min(start + 7, 300))
        block = taken.compare(rows)
        for number, row in enumerate(rows.tolist()):
            if not block.alike[number]:
                block.take(number)
                taken.add(row)
                found.append(row)
    assert found == greedy and 1 < len(found) < 300
