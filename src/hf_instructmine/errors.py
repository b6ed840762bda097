"""The one error type that users are meant to read, and what its messages have in common."""

import difflib
from collections.abc import Iterable


class InstructMineError(ValueError):
    """Something the user can mend. The message is one line: what is wrong, where (row, column, file), and the mend."""


def one_line(error: BaseException, first: bool = False) -> str:
    """What an exception says, in one line: all of it, or its `first` line where advice follows that is not ours to
    give; its class where it says nothing."""
    said = str(error).strip()
    return " ".join((said.partition("\n")[0] if first else said).split()) or type(error).__name__


def nearest(name: object, known: Iterable[object], quote: str = "'") -> str:
    """What follows an unknown name in a message: the known one that it is nearest to, in any case, and all of them."""
    by_key = {_key(one): str(one) for one in known}
    listed = f"known are {', '.join(by_key.values())}"
    close = difflib.get_close_matches(_key(name), by_key, n=1)
    return f"did you mean {quote}{by_key[close[0]]}{quote}? {listed}" if close else listed


def not_one_of(name: object, known: Iterable[object]) -> str:
    """The known names, that an unknown one is none of them, and which it is nearest to."""
    by_key = {_key(one): str(one) for one in known}
    close = difflib.get_close_matches(_key(name), by_key, n=1)
    meant = f": did you mean '{by_key[close[0]]}'?" if close else ""
    return f"one of {', '.join(by_key.values())}, not {name!r:.80}{meant}"


def _key(name: object) -> str:
    return str(name).casefold().replace("_", "-")
