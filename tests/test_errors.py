"""What another library's exception says becomes part of one line."""

import pytest

from hf_instructmine.errors import one_line


@pytest.mark.parametrize(
    "error, whole, first",
    [
        (ValueError(" bad value\n  in line 3,\tcolumn 4\n"), "bad value in line 3, column 4", "bad value"),
        (OSError(2, "No such file or directory"), "[Errno 2] No such file or directory", None),
        (ImportError(), "ImportError", None),
        (ImportError(" \n "), "ImportError", None),
    ],
)
def test_an_exception_is_told_in_one_line(error, whole, first):
    assert one_line(error) == whole
    assert one_line(error, first=True) == (first or whole)
