"""Indicators, one a file, each a callable for `Dataset.map`; and scoring a pool with them."""

import re
from typing import Any


# Public names of the package, each a subclass of `Indicator`.
INDICATORS = ("InputLength", "OutputLength", "Reward", "Perplexity", "MTLD", "NeighborDistance", "UniEval")
# What makes each column, and the argument that asks for it.
_COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "input_length": ("InputLength", {}),
    "output_length": ("OutputLength", {}),
    "reward": ("Reward", {}),
    "perplexity": ("Perplexity", {}),
    **{name: ("Perplexity", {"also": [name]}) for name in ("nll", "ifd", "end_of_turn")},
    "mtld": ("MTLD", {}),
    **{name: ("UniEval", {"dimensions": [name]}) for name in ("naturalness", "coherence", "understandability")},
}


def find_indicator(name: str) -> tuple[str, dict[str, Any]] | None:
    """The public name of an indicator, and the arguments that a column asks for.

    Args:
        name (`str`): Of an indicator or of a column that one makes, in any case: `MTLD`, `mtld`, `nll`, `knn_6`.

    Returns:
        `tuple[str, dict]`: None where nothing bears the name.
    """
    folded = name.strip().casefold()
    if neighbor := re.fullmatch(r"knn_([1-9]\d*)", folded):
        return "NeighborDistance", {"i": int(neighbor[1])}
    classes = {known.casefold(): (known, dict[str, Any]()) for known in INDICATORS}
    return classes.get(folded) or _COLUMNS.get(folded)


def known_names() -> list[str]:
    """All names that [`find_indicator`] takes, but for another neighbour than the sixth."""
    return [*INDICATORS, *_COLUMNS, "knn_6"]
