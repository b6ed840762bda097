"""The rule of InstructMining: the log loss of a finetuned model, predicted from a dataset's indicators.

`log L = β0 + Σ βk·Ik + ε`, where I_k is the mean of indicator k over the finetuning set (arXiv 2307.06290). The rule
is fitted on sets and applied to single examples; the examples of lowest predicted loss are kept.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from . import estimator_file
from .errors import InstructMineError
from .estimator_terms import Term, design, indicator_columns


PUBLISHED = ("instructmining-v1", "instructmining-v2")


@dataclass
class LossEstimator:
    """A linear rule that predicts the log loss of a finetuned model from mean indicators.

    Build one with [`~LossEstimator.fit`], [`~LossEstimator.from_published`], [`~LossEstimator.from_pretrained`] or
    [`~LossEstimator.from_coefficients`].

    Args:
        name (`str`): What the rule is called.
        origin (`str`): One sentence on where the rule comes from.
        terms (`list[Term]`): The regressors made of indicator columns.
        weights (`list[float]`): One coefficient per term.
        intercept (`float`): The constant.
        target (`str`, *optional*, defaults to `"loss"`): The column whose (log) loss is predicted.
        log_target (`bool`, *optional*, defaults to `True`): Whether log loss is predicted, rather than loss. In nats.
        model (`str`, *optional*, defaults to `"ols"`): How the coefficients were found.
        provenance (`dict[str, dict]`, *optional*): The configuration behind each indicator column the rule expects.
    """

    name: str
    origin: str
    terms: list[Term]
    weights: list[float]
    intercept: float
    target: str = "loss"
    log_target: bool = True
    model: str = "ols"
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def indicators(self) -> list[str]:
        """The columns that [`~LossEstimator.predict`] needs, in order."""
        return list(dict.fromkeys(term.column for term in self.terms))

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficient of each term, such as `{"intercept": 1.07, "reward": -0.15, "log(perplexity)": 0.02}`."""
        return {"intercept": self.intercept, **{term.name: w for term, w in zip(self.terms, self.weights)}}

    @classmethod
    def from_published(cls, name: str) -> "LossEstimator":
        """Returns a rule published with the paper.

        `"instructmining-v1"` reads the paper's single `Len` as `output_length` and `KNN_6` as `knn_6`.

        Args:
            name (`str`): `"instructmining-v1"` or `"instructmining-v2"`.

        Raises:
            [`InstructMineError`]: For another name.
        """
        if name not in PUBLISHED:
            raise InstructMineError(f"no published rule '{name}': there are {' and '.join(PUBLISHED)}")
        text = resources.files(__package__).joinpath("rules", f"{name}.json").read_text("utf-8")
        return cls._from_content(estimator_file.loads(text, f"the rule '{name}'"))

    @classmethod
    def from_coefficients(
        cls,
        coefficients: Mapping[str, float],
        *,
        name: str = "hand-set",
        origin: str = "Coefficients set by hand, fitted on nothing.",
        target: str = "loss",
        provenance: dict[str, dict[str, Any]] | None = None,
    ) -> "LossEstimator":
        """Builds a rule by hand.

        Args:
            coefficients (`Mapping[str, float]`): By term: a column (`"mtld"`), its natural logarithm
                (`"log(perplexity)"`), a square (`"mtld^2"`), and `"intercept"` (0 where absent).
            name (`str`, *optional*, defaults to `"hand-set"`): What the rule is called.
            origin (`str`, *optional*): One sentence on where the coefficients come from.
            target (`str`, *optional*, defaults to `"loss"`): The loss whose logarithm is predicted.
            provenance (`dict[str, dict]`, *optional*): The configuration behind each indicator column.

        Example:

        ```python
        >>> rule = LossEstimator.from_coefficients({"intercept": 1.0, "log(perplexity)": 0.1, "mtld": -0.002})
        >>> rule.indicators
        ['perplexity', 'mtld']
        ```
        """
        terms = [Term.parse(term) for term in coefficients if term != "intercept"]
        for term, value in coefficients.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                raise InstructMineError(f"the coefficient of '{term}' is {value!r}: it has to be a finite number")
        if not terms:
            raise InstructMineError("a rule needs at least one term besides the intercept")
        return cls(
            name=name,
            origin=origin,
            terms=terms,
            weights=[float(value) for term, value in coefficients.items() if term != "intercept"],
            intercept=float(coefficients.get("intercept", 0.0)),
            target=target,
            provenance=dict(provenance or {}),
        )

    def predict(self, dataset: Any, allow_mismatch: bool = False) -> np.ndarray:
        """Predicts the log loss that each example stands for; lower is better.

        The rule is linear in sets' means, so a single example's value ranks examples; it is not the loss on that
        example.

        Args:
            dataset (`Dataset`, `pandas.DataFrame` or mapping of sequences): Has the columns of `rule.indicators`.
            allow_mismatch (`bool`, *optional*, defaults to `False`): Accept columns that were made by another
                configuration than the rule was fitted with.

        Returns:
            `np.ndarray` of shape (n,), in nats (log loss); NaN where an indicator is missing or NaN.

        Raises:
            [`InstructMineError`]: Where columns are missing, or were made otherwise than the rule expects.
        """
        values = self._columns(dataset, allow_mismatch)
        return self.intercept + design(self.terms, values) @ np.asarray(self.weights)

    def to_json(self) -> str:
        """Returns the content of `estimator.json`, which [`~LossEstimator.from_pretrained`] reads."""
        return estimator_file.dumps(self._content())

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `estimator.json` to a folder, which is made where absent."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / estimator_file.FILE_NAME).write_text(self.to_json(), "utf-8")

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        repo_type: str = "model",
    ) -> "LossEstimator":
        """Reads a rule from a folder or the Hub; its predictions are bit-identical to those of the saved rule.

        Args:
            source (`str` or `Path`): A folder with `estimator.json`, or a repository id such as `"me/my-rule"`.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            token (`str`, *optional*): Token of the Hub; by default the one logged in with.
            repo_type (`str`, *optional*, defaults to `"model"`): `"dataset"` for the rule kept with a curated dataset.

        Raises:
            [`InstructMineError`]: Where there is no rule, or its file is damaged, incomplete or of a newer schema.
        """
        path = estimator_file.find(source, revision, token, repo_type)
        return cls._from_content(estimator_file.loads(path.read_text("utf-8"), f"'{path}'"))

    def _columns(self, dataset: Any, allow_mismatch: bool) -> dict[str, np.ndarray]:
        values = indicator_columns(dataset, self.indicators)
        if self.provenance and not allow_mismatch:
            self._check_provenance(dataset)
        return values

    def _check_provenance(self, dataset: Any) -> None:
        from .provenance import check_provenance, get_provenance

        found = get_provenance(dataset) if hasattr(dataset, "features") else {}
        # A published rule states less than an indicator records: only what it states is compared.
        found = {
            name: {key: found[name].get(key) for key in expected}
            for name, expected in self.provenance.items()
            if name in found
        }
        expected = {name: self.provenance[name] for name in self.indicators if name in self.provenance}
        unknown = check_provenance(expected, found, list(expected))
        if unknown:
            warnings.warn(
                f"nothing records which model made the column {', '.join(map(repr, unknown))}, so it is not checked "
                f"that the rule '{self.name}' was fitted on such numbers",
                stacklevel=4,
            )

    def _content(self) -> dict[str, Any]:
        from . import __version__

        return {
            "name": self.name,
            "origin": self.origin,
            "target": self.target,
            "log_target": self.log_target,
            "model": self.model,
            "intercept": self.intercept,
            "terms": [{**asdict(term), "coefficient": w} for term, w in zip(self.terms, self.weights)],
            "covariates": [],
            "provenance": self.provenance,
            "fit": None,
            "diagnostics": None,
            "versions": {"hf-instructmine": __version__},
        }

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> "LossEstimator":
        weights = [term["coefficient"] for term in content["terms"]]
        terms = [Term(**{k: v for k, v in term.items() if k != "coefficient"}) for term in content["terms"]]
        same = {key: content[key] for key in ("name", "origin", "target", "log_target", "model", "provenance")}
        return cls(terms=terms, weights=weights, intercept=content["intercept"], **same)
