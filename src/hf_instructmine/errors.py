"""The one error type that users are meant to read."""


class InstructMineError(ValueError):
    """Something the user can mend. The message is one line: what is wrong, where (row, column, file), and the mend."""
