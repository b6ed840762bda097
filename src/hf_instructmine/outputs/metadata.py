"""What a card may state to the Hub: licences, languages and repositories as the Hub writes them."""

import re
from typing import Any

from ..errors import InstructMineError


LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_repository(name: Any) -> bool:
    """Whether a name has the form `owner/name` of a repository of the Hub."""
    return isinstance(name, str) and REPOSITORY.fullmatch(name) is not None


def check_license(name: Any) -> str:
    """Refuses what is no id of a licence.

    Raises:
        [`InstructMineError`]: Says what one looks like.
    """
    if not isinstance(name, str) or not LICENSE.fullmatch(name):
        raise InstructMineError(f"{name!r:.60} is no id of a licence: write it as the Hub does, such as apache-2.0")
    return name


def check_language(name: Any) -> str:
    """Refuses what is no code of a language.

    Raises:
        [`InstructMineError`]: Says what one looks like.
    """
    if not isinstance(name, str) or not LANGUAGE.fullmatch(name):
        raise InstructMineError(
            f"{name!r:.60} is no code of a language: write it as the Hub does, such as en or pt-BR"
        )
    return name


def check_repository(name: Any) -> str:
    """Refuses what is no id of a repository.

    Raises:
        [`InstructMineError`]: Says what one looks like.
    """
    if not is_repository(name):
        raise InstructMineError(
            f"{name!r:.60} is no repository of the Hub: write owner/name, such as tatsu-lab/alpaca"
        )
    return name
