"""A card for a repository that may hold one already: what is ours is made anew, what is the user's stays.

Our part stands between two comments. The closing one keeps what we wrote there (metadata, headings, files), so that
the next push can tell it from what somebody else wrote.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import InstructMineError, one_line
from .digests import digest_of_text
from .markdown import PARQUET_FILE


BEGIN = (
    "<!-- hf-instructmine: each push makes what is between this and the closing mark anew: write above or below -->"
)
_END = "<!-- /hf-instructmine {} -->"
_MARKS = re.compile(r"<!-- hf-instructmine: [^\n]*?-->\n?(.*?)<!-- /hf-instructmine (\{[^\n]*\}) -->", re.DOTALL)
_MARK = re.compile(r"<!-- /?hf-instructmine\b")
_METADATA = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
# What earlier versions, which set no marks, wrote.
_TAG = "hf-instructmine"
_EARLIER_KEYS = ("configs", "library_name", "size_categories", "source_datasets", "tags", "task_categories")
_EARLIER_HEADINGS = {
    *("How to load", "How it was chosen", "The rule", "Indicators", "How to reproduce", "Citation"),
    *("Does it beat a random choice?", "Use", "Coefficients", "Figures", "Summary", "Limits"),
    *("Recipe", "Evaluation sets", "Runs", "Versions"),
}
# A user may have come to count on them, so they are never taken away.
_STAY = ("license", "language", "pretty_name")
_BY_CONFIG = ("configs", "dataset_info")


class _Cannot(Exception):
    """A card cannot be merged; the message says why."""


def merge_card(earlier: str | bytes | None, ours: str, files: Sequence[str], repo_id: str, overwrite: bool) -> str:
    """The text of a repository's card.

    Args:
        earlier (`str` or `bytes`, *optional*): The card that the repository holds.
        ours (`str`): The card of what is pushed.
        files (`Sequence[str]`): Names of the files that are pushed, besides the card. The rows, by the name or pattern
            of their Parquet files, come last; the card's configuration `default` names them.
        repo_id (`str`): The repository, for an error.
        overwrite (`bool`): Whether a card that cannot be merged is replaced.

    Raises:
        [`InstructMineError`]: Where it cannot be merged, and `overwrite` is `False`.
    """
    metadata, body = _parse(ours)
    if files and files[-1].startswith("data/"):
        # Named, for other shards may lie beside them.
        known: dict[str, Any] = next(iter(metadata.get("configs") or ()), {})
        data_files = [{"split": "train", "path": files[-1]}]
        metadata["configs"] = [{**known, "config_name": "default", "data_files": data_files}]
    # A name in a block of code is not escaped, and could end our part.
    body = _MARK.sub(lambda mark: mark[0].replace("<", "&lt;"), body).strip("\n")
    headings = [heading for heading, _ in _sections(body) if heading]
    short = {name: value for name, value in metadata.items() if name != "dataset_info"}
    written = {"body": _digest(body), "files": list(files), "headings": headings, "metadata": short}
    part = f"{BEGIN}\n\n{body}\n\n{_END.format(_as_comment(written))}"
    if earlier is None or not earlier.strip():
        return _card(metadata, part)
    try:
        theirs, text = _parse(_text(earlier))
        base = _written(text) or _written_earlier(theirs, text)
        return _card(_merge_metadata(theirs, metadata, base["metadata"]), _merge_body(text, part, base))
    except _Cannot as error:
        if overwrite:
            return _card(metadata, part)
        raise InstructMineError(
            f"the card of '{repo_id}' would be damaged: {error}; push to another repository, mend the card on the "
            "Hub, or pass overwrite to replace it"
        ) from error


def files_of(card: str | bytes | None) -> list[str]:
    """Names and patterns of the files that the last push wrote, as its card keeps them; none where it is not ours."""
    try:
        theirs, text = _parse(_text(card or ""))
        base = _written(text) or _written_earlier(theirs, text)
    except _Cannot:
        return []
    return [name for name in base["files"] if isinstance(name, str)]


def own_parts(card: str, pushed: str) -> list[str]:
    """Headings and names of metadata that a card has and the pushed one has not, so that they were left.

    Args:
        card (`str`): A folder's card, into which somebody may have written.
        pushed (`str`): The card that was pushed.
    """
    try:
        (ours, text), (theirs, pushed_text) = _parse(card), _parse(pushed)
    except _Cannot:  # damaged by hand
        return ["its metadata"]
    kept = {heading for heading, _ in _sections(pushed_text)}
    own = [heading for heading, _ in _sections(text) if heading and heading not in kept]
    return own + [name for name in ours if name not in theirs]


def _card(metadata: dict[str, Any], body: str) -> str:
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{head}---\n\n{body.strip()}\n"


def _as_comment(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "-\\u002d")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth and no dates: `language: no` is Norwegian."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, known) for tag, known in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def _text(card: str | bytes) -> str:
    try:
        return card.decode("utf-8-sig") if isinstance(card, bytes) else card
    except UnicodeDecodeError as error:
        raise _Cannot("it is not in UTF-8") from error


def _parse(card: str) -> tuple[dict[str, Any], str]:
    found = _METADATA.match(card)
    if found is None:
        return {}, card
    try:
        metadata = yaml.load(found[1], _Loader) or {}
    except yaml.YAMLError as error:
        raise _Cannot(f"its metadata are no YAML ({one_line(error):.200})") from error
    if not isinstance(metadata, dict):
        raise _Cannot("its metadata are no mapping")
    return metadata, card[found.end() :]


def _written(text: str) -> dict[str, Any] | None:
    """What our last push wrote, from the closing mark; None where there are no marks."""
    if _MARK.search(text) is None:
        return None
    found = _MARKS.search(text)
    if found is None or len(_MARK.findall(text)) != 2:
        raise _Cannot("of the two marks around the part of hf-instructmine one is missing or there twice")
    try:
        written = json.loads(found[2])
        known = {"body": str, "files": list, "headings": list, "metadata": dict}
        sound = all(isinstance(written[name], kind) for name, kind in known.items())
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise _Cannot("the closing mark of hf-instructmine was changed by hand")
    return written


def _written_earlier(theirs: dict[str, Any], text: str) -> dict[str, Any]:
    """What an earlier version wrote, which left no marks; nothing, where the card is of somebody else."""
    tags = theirs.get("tags")
    headings = [heading for heading, _ in _sections(text) if heading in _EARLIER_HEADINGS]
    if not isinstance(tags, list) or _TAG not in tags or not headings:
        return {"body": None, "files": [], "headings": [], "metadata": {}}
    metadata = {name: theirs[name] for name in _EARLIER_KEYS if name in theirs}
    return {"body": None, "files": [PARQUET_FILE], "headings": headings, "metadata": metadata}


def _merge_body(text: str, part: str, base: dict[str, Any]) -> str:
    found = _MARKS.search(text)
    before, inside, after = (text[: found.start()], found[1], text[found.end() :]) if found else ("", text, "")
    if not found and not base["headings"]:  # of somebody else
        return f"{part}\n\n{text.strip()}"
    sections = _sections(inside)
    ours = "".join(section for heading, section in sections if heading is None or heading in base["headings"])
    if base["body"] is not None and base["body"] != _digest(ours):
        raise _Cannot("the part of hf-instructmine was changed by hand: move what you wrote below the closing mark")
    own = [section.strip("\n") for heading, section in sections if heading and heading not in base["headings"]]
    return "\n\n".join(filter(None, [before.strip("\n"), part, *own, after.strip("\n")]))


def _sections(text: str) -> list[tuple[str | None, str]]:
    """A text cut at its headings of the second level; what stands before the first has none."""
    found: list[tuple[str | None, str]] = [(None, "")]
    fence = None
    for line in text.splitlines(keepends=True):
        opened = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence is None and line.startswith("## "):
            found.append((line[3:].strip(), ""))
        elif opened and fence is None:
            fence = opened[1]
        elif opened and opened[1].startswith(fence or "") and not line.strip().strip("`~"):
            fence = None
        found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def _digest(text: str) -> str:
    """Of the words of a text, whatever became of its blank lines and line ends."""
    return digest_of_text("\n".join(filter(None, (line.rstrip() for line in text.splitlines()))), 16)


def _merge_metadata(theirs: dict[str, Any], ours: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Theirs, with what we wrote last replaced by what we write now."""
    merged = {}
    for name in dict.fromkeys([*theirs, *ours]):
        if name in _BY_CONFIG:
            value = _merge_configs(name, theirs.get(name), ours, base)
        else:
            value = _merge_value(name, theirs.get(name), ours.get(name), base.get(name))
        if value is not None:
            merged[name] = value
    return merged


def _merge_value(name: str, theirs: Any, ours: Any, base: Any) -> Any:
    if theirs is None or theirs == ours:
        return ours
    if theirs == base:
        return theirs if ours is None and name in _STAY else ours
    if name == "license" and ours is not None:
        raise _Cannot(f"it says license: {theirs}, and what is pushed says license: {ours}")
    if isinstance(theirs, list) and isinstance(ours, list):
        written = base if isinstance(base, list) else []
        return list({json.dumps(item): item for item in [*(t for t in theirs if t not in written), *ours]}.values())
    return theirs


def _merge_configs(name: str, theirs: Any, ours: dict[str, Any], base: dict[str, Any]) -> Any:
    """Entries of other names stay; that of the name "default" is ours, where we push rows."""
    if "configs" not in ours and "configs" not in base:
        return theirs
    entries, new, written = (
        value if isinstance(value, list) else [value] if value else []
        for value in (theirs, ours.get(name), base.get(name))
    )
    if not all(isinstance(entry, dict) for entry in entries):
        raise _Cannot(f"its {name} are no list of mappings")
    others = [entry for entry in entries if entry.get("config_name", "default") != "default"]
    for entry in entries if name == "configs" else ():
        if entry in others and entry.get("default") is True:
            raise _Cannot(f"its configuration '{entry['config_name']}' is the one that load_dataset opens")
        further = _splits(entry.get("data_files")) - {"train"}
        if entry not in others and entry not in written and further:
            raise _Cannot(f"its configuration 'default' has the split '{min(further)}', which could not be opened")
    return [*({"config_name": "default", **entry} for entry in new), *others] if others else ours.get(name)


def _splits(data_files: Any) -> set[str]:
    """The splits that a configuration names; files without one are of `train`."""
    if isinstance(data_files, dict):
        return {str(split) for split in data_files}
    if isinstance(data_files, list):
        return {str(entry.get("split", "train")) for entry in data_files if isinstance(entry, dict)}
    return set()
