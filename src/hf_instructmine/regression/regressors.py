"""How regressors lie: which of them repeat each other, and how far out a row is."""

from collections.abc import Sequence

import numpy as np

from ..errors import InstructMineError


_COLLINEAR = 1e-9
_DETERMINED = 1e-10


def vif(x: np.ndarray) -> np.ndarray:
    """Variance inflation factors 1 / (1 − R²) of each column on the others and a constant, shape (columns,).

    Infinite for a column that is constant or that the others determine, where statsmodels gives some large number.
    """
    x = x - x.mean(axis=0)
    factors = np.full(x.shape[1], np.inf)
    for k, column in enumerate(x.T):
        others = np.delete(x, k, axis=1)
        rest = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
        if rest @ rest > _DETERMINED * (column @ column):
            factors[k] = max(1.0, column @ column / (rest @ rest))
    return factors


def condition_number(x: np.ndarray) -> float:
    """Of standardised columns: √ of the ratio of the largest to the smallest eigenvalue of their correlations."""
    if x.shape[1] == 0:
        return 1.0
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    return float(values[0] / max(values[-1], 1e-300))


def leverage(x: np.ndarray, gram_inverse: np.ndarray) -> np.ndarray:
    """How far rows lie from those that were fitted: xᵀ(UᵀU)⁻¹x of each, shape (n,).

    Args:
        x (`np.ndarray` of shape (n, columns)): The rows, with the constant if the fitted ones have it.
        gram_inverse (`np.ndarray` of shape (columns, columns)): (UᵀU)⁻¹ of the rows U that were fitted.
    """
    return ((x @ gram_inverse) * x).sum(axis=1)


def refuse_collinear(names: Sequence[str], x: np.ndarray) -> None:
    """Refuses regressors that cannot be told apart, naming them.

    Args:
        names (`Sequence[str]`): One per column of x.
        x (`np.ndarray` of shape (n, columns)): Standardised, without the constant.

    Raises:
        [`InstructMineError`]: Where a column is a linear combination of those before it.
    """
    for k in range(1, x.shape[1]):
        slopes, *_ = np.linalg.lstsq(x[:, :k], x[:, k], rcond=1e-10)
        if ((x[:, k] - x[:, :k] @ slopes) ** 2).sum() <= _COLLINEAR * (x[:, k] ** 2).sum():
            others = [names[j] for j in range(k) if abs(slopes[j]) > 1e-4]
            raise InstructMineError(
                f"'{names[k]}' is an exact linear combination of {', '.join(map(repr, others))} in these runs: leave "
                f"one of them out"
            )
