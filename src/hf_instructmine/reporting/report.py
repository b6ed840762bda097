"""The report of a folder: what was chosen, why, and what that is worth, as one page."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import InstructMineError
from ..outputs.files import writing
from ..outputs.folder import resolved
from .contents import Contents, open_contents
from .evidence import evidence
from .fates import Judged, judge_rows
from .page import RowsOnPage, is_ours, write_page
from .rows import RowData, write_rows
from .sections import Section, composition, path_of_numbers, predictions, the_rule, verdict


FILE = "report.html"
TITLE = "What was selected, why, and what it is worth"


def report(
    folder: str | Path,
    output_file: str | Path | None = None,
    *,
    pool: str | Path | None = None,
    columns: Mapping[str, Any] | None = None,
    full_texts: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes one HTML file that shows what a folder of this project holds. It needs no network.

    A folder of any verb is shown, and so is one whose direct sub-folders are such: scores, a sweep, a rule, a
    selection, a size search, a comparison, an evaluation or a judge's. What there is not is left out, and the page
    says so. The page has the verdict first, then how many rows each step left, the rule with what its terms add in
    selected rows and in others, figures, tables of what was measured, and a table of the rows: with search, filters,
    sorting, and for each row why it was kept or not. The table has 100,000 rows at most.

    Args:
        folder (`str` or `Path`): On this machine.
        output_file (`str` or `Path`, *optional*): Of the page; by default `report.html` in the folder.
        pool (`str` or `Path`, *optional*): The folder of the scored pool, where it is elsewhere.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the pool's layout is not detected; by
            default as the selection was told.
        full_texts (`bool`, defaults to `False`): Whether prompts and responses are whole. They are cut otherwise, at
            2,000 characters or fewer, so that 100,000 rows stay below 25 MB; the page says where.
        overwrite (`bool`, defaults to `False`): Whether a file of that name is replaced that is no report of ours,
            which is replaced in any case.

    Returns:
        `Path`: Of the page.

    Raises:
        [`InstructMineError`]: Where the folder holds nothing of ours, all of it is damaged, the pool has no rows, or
            the page cannot be written. A part that is damaged beside others is left out with a warning.

    Example:

    ```python
    >>> him.report("demo-output")
    PosixPath('demo-output/report.html')
    ```
    """
    source = resolved(folder)
    path = source / FILE if output_file is None else resolved(output_file)
    with TemporaryDirectory() as work:
        contents = open_contents(source, None if pool is None else resolved(pool), Path(work, "pool"))
        _check_output(path, overwrite)
        if columns is None and contents.selection is not None:
            columns = contents.selection.asked.get("columns")
        judged, data, rows = _read_rows(contents, columns, full_texts, Path(work, "rows.html"))
        sections = _sections(contents, judged, data)
        write_page(TITLE, sections, rows, contents.notes, path)
        contents.scored = None  # its files are gone with the folder
    return path


def _check_output(path: Path, overwrite: bool) -> None:
    """Refuses a file that is not ours, before the work."""
    if path.is_dir():
        raise InstructMineError(f"'{path}' is a folder: name a file")
    if path.exists() and not overwrite and not is_ours(path):
        raise InstructMineError(
            f"'{path}' is no report of this project: name another file, or pass overwrite=True to replace it"
        )


def _read_rows(
    contents: Contents, columns: Mapping[str, Any] | None, full_texts: bool, path: Path
) -> tuple[Judged | None, RowData | None, RowsOnPage | None]:
    judged = judge_rows(contents, columns)
    if judged is None:
        return None, None, None
    with writing(path):
        data = write_rows(judged, contents.rule, columns, full_texts, path)
    contents.notes += judged.notes
    told = list(data.notes)
    if judged.has_text and data.most is not None:
        told.append(f"Prompts and responses are cut at {data.most:,} characters. Search reads what is shown of them.")
    return judged, data, RowsOnPage(told, path)


def _sections(contents: Contents, judged: Judged | None, data: RowData | None) -> list[Section]:
    """In the order of the page."""
    found = [
        verdict(contents),
        path_of_numbers(contents, judged, data),
        the_rule(contents, judged),
        predictions(contents, judged),
        composition(contents, judged),
        *evidence(contents),
    ]
    return [section for section in found if section is not None]
