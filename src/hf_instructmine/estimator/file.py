"""`estimator.json`, the file a rule is kept in. Plain JSON: nothing in it is ever executed.

Its schema is documented in `docs/estimator.md`. A checksum over the content refuses a file that was changed by hand,
since coefficients, covariance and diagnostics belong together.
"""

import json
import math
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from ..errors import InstructMineError, one_line
from ..outputs.digests import digest, digest_of_text
from ..outputs.hub import status_of, unreadable
from ..outputs.reading import parse_json, read_text, typed
from ..regression.diagnostics import Diagnostics
from ..regression.fit import Fit
from ..regression.terms import Term


if TYPE_CHECKING:
    from .rule import Rule


FILE_NAME = "estimator.json"
FORMAT = "hf-instructmine/estimator"
_MEND = "save the rule again"
SCHEMA_VERSION = 1
FIELDS = (
    "name",
    "origin",
    "target",
    "log_target",
    "model",
    "intercept",
    "terms",
    "covariates",
    "provenance",
    "fit",
    "diagnostics",
    "versions",
)


def content_of(rule: "Rule") -> dict[str, Any]:
    """The fields of the file, from a rule."""
    from .. import __version__

    if rule.regressor is not None:
        raise InstructMineError("an AutoML rule cannot be kept: it is for comparison; fit a linear one to keep")
    libraries = ("numpy", "scikit-learn", "scipy", "statsmodels") if rule.fitted is not None else ()
    return {
        "name": rule.name,
        "origin": rule.origin,
        "target": rule.target,
        "log_target": rule.log_target,
        "model": rule.model,
        "intercept": rule.intercept,
        "terms": [{**asdict(t), "coefficient": w} for t, w in zip(rule.terms, rule.weights)],
        "covariates": [{**asdict(t), "coefficient": w} for t, w in zip(rule.covariates, rule.covariate_weights)],
        "provenance": rule.provenance,
        "fit": None if rule.fitted is None else asdict(rule.fitted),
        "diagnostics": None if rule.diagnostics is None else rule.diagnostics.to_dict(),
        "versions": {"hf-instructmine": __version__, **{library: version(library) for library in libraries}},
    }


def rule_digest(rule: "Rule") -> str:
    """16 hexadecimal digits of all that decides what a rule predicts and from which columns, whatever it is called.

    A rule has the same digest before it is saved and after it is read.
    """
    fitted = rule.fitted
    decides = {
        "target": rule.target,
        "log_target": rule.log_target,
        "model": rule.model,
        "intercept": rule.intercept,
        "terms": [[asdict(t), w] for t, w in zip(rule.terms, rule.weights)],
        "covariates": [[asdict(t), w] for t, w in zip(rule.covariates, rule.covariate_weights)],
        "provenance": rule.provenance,
        "runs": None if fitted is None else fitted.runs.get("hash"),
        # A regressor has no coefficients to tell it by.
        "options": None if fitted is None or rule.regressor is None else fitted.options,
    }
    return digest(_plain(decides))


class _Term(TypedDict):
    column: str
    log: NotRequired[bool]
    power: NotRequired[int]
    center: NotRequired[float]
    scale: NotRequired[float]
    coefficient: float


class _Content(TypedDict):
    name: str
    origin: str
    target: str
    log_target: bool
    model: str
    intercept: float
    terms: list[_Term]
    covariates: list[_Term]
    provenance: dict[str, dict[str, Any]]
    fit: Fit | None


def fields_of(content: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a rule, from the fields of the file.

    Raises:
        `TypeError`: Where a field is of another kind, or two do not belong together.
    """
    content = {**content, **typed({key: content[key] for key in _Content.__annotations__}, _Content)}

    def terms(entries: list[dict[str, Any]]) -> list[Term]:
        found = [Term(**{k: v for k, v in entry.items() if k != "coefficient"}) for entry in entries]
        if wrong := next((t for t in found if not t.column or t.power not in (1, 2) or t.scale == 0), None):
            raise TypeError(f"{wrong!r:.80} is no term")
        return found

    fields = {
        **{
            key: content[key] for key in ("name", "origin", "target", "log_target", "model", "intercept", "provenance")
        },
        "terms": terms(content["terms"]),
        "weights": [entry["coefficient"] for entry in content["terms"]],
        "covariates": terms(content["covariates"]),
        "covariate_weights": [entry["coefficient"] for entry in content["covariates"]],
        "fitted": content["fit"],
        "diagnostics": None if content["diagnostics"] is None else Diagnostics.from_dict(content["diagnostics"]),
    }
    _check_together(fields["fitted"], fields["diagnostics"], [*fields["terms"], *fields["covariates"]])
    return fields


def _check_together(fit: Fit | None, diagnostics: Diagnostics | None, terms: list[Term]) -> None:
    if (fit is None) != (diagnostics is None):
        raise TypeError("'fit' and 'diagnostics' go together")
    if fit is None or diagnostics is None:
        return
    typed(fit.options.get("select"), str, "fit.options.select")
    if absent := {term.name for term in terms} - {coefficient.name for coefficient in diagnostics.coefficients}:
        raise TypeError(f"'diagnostics.coefficients' has no '{min(absent)}'")
    regressors = len(terms)
    square = [regressors + 1] * (regressors + 1)
    for name, sizes, right in (
        ("mean", [len(fit.mean)], [regressors]),
        ("sd", [len(fit.sd)], [regressors]),
        ("covariance", None if fit.covariance is None else [*map(len, fit.covariance)], square),
        ("gram_inverse", None if fit.gram_inverse is None else [*map(len, fit.gram_inverse)], square),
    ):
        if sizes not in (None, right):
            raise TypeError(f"'fit.{name}' is not of {regressors} regressors")


def read(text: str, where: str) -> dict[str, Any]:
    """The arguments of a rule, from the text of its file.

    Raises:
        [`InstructMineError`]: As [`loads`], and where the content is not that of a rule.
    """
    content = loads(text, where)
    try:
        return fields_of(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise InstructMineError(
            f"{where} does not hold a rule as this version writes it ({one_line(error)}): {_MEND}"
        ) from error


def read_file(path: Path) -> dict[str, Any]:
    """The arguments of a rule, from its file.

    Raises:
        [`InstructMineError`]: As [`read`], and where the file cannot be read.
    """
    return read(read_text(path, _MEND), f"'{path}'")


def dumps(content: dict[str, Any]) -> str:
    """Serialises a rule's content with its format, schema version and checksum. Floats keep every bit; NaN is null."""
    content = _plain({"format": FORMAT, "schema_version": SCHEMA_VERSION, **content})
    return (
        json.dumps({**content, "checksum": _checksum(content)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def loads(text: str, where: str) -> dict[str, Any]:
    """Reads and checks the content of a rule's file.

    Args:
        text (`str`): The file's text.
        where (`str`): What to call the file in an error.

    Raises:
        [`InstructMineError`]: Where the file is not a rule, is of a newer schema, lacks a field, or was changed by
            hand.
    """
    content = parse_json(text, where, _MEND)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InstructMineError(f"{where} is not a rule of hf-instructmine: its 'format' is not '{FORMAT}'")
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise InstructMineError(f"{where} has schema version {version!r:.40}, which there is not: {_MEND}")
    if version > SCHEMA_VERSION:
        raise InstructMineError(
            f"{where} has schema version {version!r}; this hf-instructmine reads up to {SCHEMA_VERSION}: upgrade it"
        )
    missing = [field for field in (*FIELDS, "checksum") if field not in content]
    if missing:
        raise InstructMineError(f"{where} lacks the field {', '.join(map(repr, missing))}: {_MEND}")
    checksum = content.pop("checksum")
    if checksum != _checksum(content):
        raise InstructMineError(
            f"{where} was changed after it was saved (its checksum does not match): save the rule again, or build one "
            f"by hand with LossEstimator.from_coefficients"
        )
    return content


def find(source: str | Path, revision: str | None, token: str | None, repo_type: str) -> Path:
    """Returns the local path of the file in a folder, or downloads it from a repository of the Hub."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise InstructMineError(f"the folder '{path}' has no {FILE_NAME}: it holds no rule")
        return path / FILE_NAME
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(source), FILE_NAME, revision=revision, token=token, repo_type=repo_type))
    except HFValidationError as error:
        raise InstructMineError(f"'{source}' is neither a folder nor a repository id of the Hub") from error
    except (
        LocalEntryNotFoundError,
        RuntimeError,
    ) as error:  # the latter of huggingface_hub 1.5
        if status_of(error) is not None:  # of the answer that this hides
            raise InstructMineError(unreadable(error, f"the {repo_type} '{source}'")) from error
        raise InstructMineError(
            f"'{source}' is not a folder here, and the Hub could not be reached to look for it there"
        ) from error
    except EntryNotFoundError as error:
        raise InstructMineError(f"the {repo_type} '{source}' on the Hub has no {FILE_NAME}") from error
    except HTTPError as error:
        raise InstructMineError(unreadable(error, f"the {repo_type} '{source}'")) from error


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays as plain ones; what is not finite as null, which is all that JSON has for it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"sha256:{digest_of_text(canonical, 64)}"
