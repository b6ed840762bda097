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
    by_key = {str(one).casefold().replace("_", "-"): str(one) for one in known}
    close = difflib.get_close_matches(str(name).casefold().replace("_", "-"), by_key, n=1)
    meant = f"did you mean {quote}{by_key[close[0]]}{quote}? " if close else ""
    return f"{meant}known are {', '.join(by_key.values())}"
