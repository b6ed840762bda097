"""Where the rows of a selection come from, and under which licences: as its user says, or as the inputs' cards do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..data.files import FileKind
from ..data.inputs import Source
from ..errors import InstructMineError
from ..outputs.markdown import printable
from ..outputs.metadata import LANGUAGE, LICENSE, REPOSITORY, check_language, check_license, is_repository


_METADATA = re.compile(r"\s*---\r?\n(.*?)\r?\n---", re.DOTALL)
_MOST = 1_000_000  # characters of a card that are read


@dataclass
class Origin:
    """What is known of where rows come from.

    Attributes:
        licenses (`dict[str, str | None]`): By input, the licence that its card states; None where it states none.
        languages (`list[str]`): What the cards state, each once.
        source_datasets (`list[str]`): Ids of the Hub.
    """

    licenses: dict[str, str | None] = field(default_factory=dict)
    languages: list[str] = field(default_factory=list)
    source_datasets: list[str] = field(default_factory=list)

    @property
    def license(self) -> str | None:
        """The one that all inputs have; None where they differ or one has none."""
        found = set(self.licenses.values())
        return found.pop() if len(found) == 1 else None

    @property
    def conflict(self) -> str | None:
        """What is to be said where the inputs' licences differ, or some have none."""
        if len(set(self.licenses.values())) < 2:
            return None
        told = ", ".join(f"{printable(name)}: {licence or 'not known'}" for name, licence in self.licenses.items())
        return f"the licences of the inputs differ ({told}): none holds for the whole; say which does with license"


def read_origin(inputs: Sequence[str]) -> Origin:
    """Reads the cards of inputs as [`load_pool`] takes them: a folder's `README.md`, or that of a dataset on the Hub.

    What cannot be read, or is no licence or language as the Hub writes them, counts as not stated.
    """
    origin = Origin()
    for text in map(str, inputs):
        source = Source.parse(text)
        path = Path(source.path)
        is_file = path.is_file() or (not path.is_dir() and FileKind.of(path.name) is not None)
        on_hub = not is_file and not path.is_dir() and is_repository(source.path)
        card = {} if is_file else _card_on_hub(source.path) if on_hub else _card(path / "README.md")
        origin.licenses[source.label] = _license_of(card)
        origin.languages += [one for one in _listed(card, "language", LANGUAGE) if one not in origin.languages]
        named = [source.path] if on_hub else _listed(card, "source_datasets", REPOSITORY)
        origin.source_datasets += [one for one in named if one not in origin.source_datasets]
    return origin


def check_source_licenses(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Reads licences by source: a mapping, or texts `SOURCE=LICENSE`.

    Raises:
        [`InstructMineError`]: Where one is not of that form.
    """
    if not isinstance(given, Mapping):
        pairs = [text.rpartition("=") for text in given]
        wrong = next((text for text, (name, _, _) in zip(given, pairs) if not name), None)
        if wrong is not None:
            raise InstructMineError(f"the licence '{wrong:.60}' is not of the form SOURCE=LICENSE, such as web=mit")
        given = {name: licence for name, _, licence in pairs}
    return {str(name): check_license(licence) for name, licence in given.items()}


def check_stated(
    license: str | None, language: Sequence[str] | None, source_license: Mapping[str, str] | Sequence[str] | None
) -> tuple[str | None, list[str], dict[str, str]]:
    """Reads what a user states of a data set, before any work on it; see [`Selection.describe`].

    Raises:
        [`InstructMineError`]: As the checks above do.
    """
    return (
        None if license is None else check_license(license),
        [check_language(one) for one in language or ()],
        check_source_licenses(source_license or {}),
    )


def _card(path: Path) -> dict[str, Any]:
    """The metadata of a card; nothing where there is none that can be read."""
    try:
        with path.open(encoding="utf-8") as file:
            found = _METADATA.match(file.read(_MOST))
        card = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _card_on_hub(repository: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        return _card(Path(hf_hub_download(repository, "README.md", repo_type="dataset")))
    except (OSError, ValueError):  # out of reach, or without a card: the licence is not known then
        return {}


def _listed(card: Mapping[str, Any], key: str, form: "re.Pattern[str]") -> list[str]:
    value = card.get(key)
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str) and form.fullmatch(one)]


def _license_of(card: Mapping[str, Any]) -> str | None:
    stated = _listed(card, "license", LICENSE)
    return stated[0] if len(stated) == 1 and stated[0] != "unknown" else None
