"""The one error type that users are meant to read."""


class InstructMineError(ValueError):
    """Something the user can mend. The message is one line: what is wrong, where (row, column, file), and the mend."""


def one_line(error: BaseException, first: bool = False) -> str:
    """What an exception says, in one line: all of it, or its `first` line where advice follows that is not ours to
    give; its class where it says nothing."""
    said = str(error).strip()
    return " ".join((said.partition("\n")[0] if first else said).split()) or type(error).__name__
