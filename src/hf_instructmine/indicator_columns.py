"""Which columns of a table are indicators: the ones scored by this package, or named as its indicators are."""

from datasets import Dataset, Value

from .estimator_terms import indicator_of
from .provenance import get_provenance


_NUMBERS = ("float", "double", "int", "uint", "half")


def indicator_columns(dataset: Dataset) -> list[str]:
    """Names the indicator columns of a scored pool, of a table of mixtures or of a table of runs.

    A numeric column is an indicator if it carries provenance, or if its name is one that the indicators write
    (`input_length`, `output_length`, `reward`, `perplexity`, `mtld`, `knn_<i>`, `naturalness`, `coherence`,
    `understandability`), or `pool_knn_<i>`, a subset's mean of the pool's own `knn_<i>`: a rule fitted on it reads the
    pool's column.

    Returns:
        `list[str]`: Column names in the dataset's own order; empty where there are none.
    """
    provenance = get_provenance(dataset)
    return [
        name
        for name, feature in dataset.features.items()
        if isinstance(feature, Value)
        and feature.dtype.startswith(_NUMBERS)
        and (name in provenance or indicator_of(name))
    ]
