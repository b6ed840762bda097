"""What is the user's own and has to stay on this machine: paths, home folders, tokens."""

import getpass
import re
from pathlib import Path
from typing import Any


# A folder of Windows may have blanks in its name, as only a further "\" tells it from the text behind a path.
_WINDOWS = re.compile(
    r"""(?<![\w\\])(?:file:/{2,3})?(?:[A-Za-z]:[\\/]+|\\\\)(?:[^\\/:*?"'<>|\n]+\\+|[^\s\\/:*?"'<>|]+/+)*"""
    r"""(?P<name>[^\s\\/:*?"'<>|;,]*)""",
    re.IGNORECASE,
)
_POSIX = re.compile(
    r"""(?:file:(?://[\w.-]*)?(?=/)|(?<![\w/.~$}<-])(?!(?<=:)//)(?:~[\w.-]*|\$\{?\w+\}?|\.{1,2})?)"""
    r"""/+(?:[^\s/'"`:;,]+/+)*(?P<name>[^\s/'"`:;,]*)""",
    re.IGNORECASE,
)
# Folders in which each user has one of their own.
_HOMES = re.compile(r"(?:[\\/](?:home|users|documents and settings)[\\/]+[^\\/]+[\\/]*|^(?:file:/*)?/root/*)$", re.I)
_TOKENS = re.compile(
    r"\b(?:(?:hf|api_org|gh[pousr]|github_pat|glpat)[_-][A-Za-z0-9_-]{16,}|[sr]k-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}|xox[abp]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)|(?<=\bbearer )[\w.~+/=-]{16,}",
    re.IGNORECASE,
)


def without_paths(value: Any) -> Any:
    """Leaves the last name of every path of this machine in a text, and "~" where that is a home folder.

    Known are paths of POSIX and Windows, also after `file://`, `~`, `~name` and `$HOME`. What is no text stays.
    """
    if not isinstance(value, str):
        return value
    for pattern in (_WINDOWS, _POSIX):
        value = pattern.sub(_last_name, value)
    return re.sub(rf"(?<![\w~])~{re.escape(_user())}(?![\w-])", "~", value) if _user() else value


def without_secrets(value: Any) -> Any:
    """The same, and "…" for what looks like a token; in every text of lists and mappings too."""
    if isinstance(value, str):
        return without_paths(_TOKENS.sub("…", value))
    if isinstance(value, dict):
        names = [without_secrets(name) for name in value]
        if len(set(names)) < len(names):  # of two paths with one last name
            names = [f"{name}-{number}" for number, name in enumerate(names, start=1)]
        return dict(zip(names, map(without_secrets, value.values())))
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return value


def _last_name(found: re.Match[str]) -> str:
    path, name = found[0], found["name"]
    if len(path) < 2 or not re.search(r"\w", path):  # a lone "/", as in "rows / s"
        return path
    alone = re.fullmatch(r"(?:file:/*)?[\\/.]*~[\w.-]*[\\/]*", path) is not None  # ~name/
    if alone or _HOMES.search(path) or name == _user():
        return "~"
    return name or re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def _user() -> str:
    """The name of the user's home folder."""
    try:
        return Path.home().name or getpass.getuser()
    except (RuntimeError, KeyError, OSError):  # of no home and no name
        return ""
