"""Which configuration made a column. An indicator's number means nothing without the model that made it.

The configuration is kept as JSON in the `id` of the column's feature, so it survives `map`, `select`, `filter`,
`save_to_disk`, `to_parquet`, `push_to_hub` and `load_dataset`, and two pools scored differently do not concatenate.
"""

import json
from typing import Any

from datasets import Dataset, Value

from ..errors import InstructMineError
from ..outputs.reading import parse_json
from ..versions import check_versions
from .tables import with_features


check_versions("datasets", "pyarrow")


def get_provenance(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Returns the configuration behind each column that carries one; columns without provenance are absent.

    Args:
        dataset (`Dataset`): A scored pool, or a table of mixtures or runs.

    Raises:
        [`InstructMineError`]: Where it is no dataset, or several splits, or what a column carries cannot be read.

    Example:

    ```python
    >>> him.get_provenance(him.score(him.load_sample_pool(), him.MTLD()))
    {'mtld': {'indicator': 'MTLD', 'threshold': 0.72, 'turns': 'last'}}
    ```
    """
    if not hasattr(dataset, "features"):
        raise InstructMineError(f"a {type(dataset).__name__} has no provenance: pass a Dataset, or one split")
    return {
        name: parse_json(feature.id, f"the configuration of the column {name!r:.80}", "score that column again")
        for name, feature in (dataset.features or {}).items()  # of many streams they are not known
        if isinstance(feature, Value) and feature.id and feature.id.startswith("{")
    }


def set_provenance(dataset: Dataset, provenance: dict[str, dict[str, Any]]) -> Dataset:
    """Returns `dataset` with the configuration of each named column recorded in its feature; no data is copied."""
    features = dataset.features.copy()
    for name, configuration in provenance.items():
        features[name] = Value(features[name].dtype, id=json.dumps(configuration, sort_keys=True))
    return with_features(dataset, features)


def check_provenance(
    expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], columns: list[str]
) -> list[str]:
    """Compares two provenances column by column.

    Returns:
        The columns of `columns` that carry no provenance on one of the two sides, so cannot be checked.

    Raises:
        [`InstructMineError`]: Where both sides name a configuration for a column and the two differ; both are named.
    """
    for name in columns:
        if name in expected and name in found and expected[name] != found[name]:
            keys = sorted(k for k in {*expected[name], *found[name]} if expected[name].get(k) != found[name].get(k))
            then = ", ".join(f"{k}={expected[name].get(k)!r}" for k in keys)
            now = ", ".join(f"{k}={found[name].get(k)!r}" for k in keys)
            raise InstructMineError(
                f"column '{name}' was made otherwise than the rule expects: the rule has {then}, the data has {now}; "
                f"score the data again with the rule's configuration, or pass allow_mismatch=True"
            )
    return [name for name in columns if name not in expected or name not in found]
