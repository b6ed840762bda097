"""The house: which wing may know which, and how large a room may be."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_instructmine as him


SOURCE = Path(him.__file__).parent
# From the ground up. A wing knows those named beside it and `errors` and `versions`; annotations and imports inside of
# functions count.
WINGS = {
    "outputs": "",
    "data": "outputs",
    "models": "data outputs",
    "indicators": "models data outputs",
    "finetuning": "models data outputs",
    "regression": "data outputs",
    "estimator": "regression data outputs",
    "sweep": "regression finetuning models data outputs",
    "selection": "estimator regression models data outputs",
    "search": "selection sweep estimator regression finetuning models data outputs",
    "comparison": "selection sweep estimator regression finetuning models data outputs",
    "evaluation": "finetuning models data outputs",
    "reporting": "evaluation comparison search selection sweep estimator regression data outputs",
    "mining": "reporting comparison search selection sweep estimator finetuning indicators models data outputs",
    "cli": "mining reporting evaluation comparison search selection sweep estimator regression finetuning indicators "
    "models data outputs",
}
GROUND = {"", "errors", "versions"}
MOST_LINES, MOST_CODE, MOST_ROOMS = 450, 60, 16


def modules() -> dict[str, Path]:
    """Every module by its dotted name below the package; a package is the name of its folder."""
    names = {p: p.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".") for p in SOURCE.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in names.items()}


def imports(name: str, path: Path, source: str | None = None) -> Iterator[tuple[str, int]]:
    """The modules of this package that a module imports, and in which line."""
    known = modules()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8") if source is None else source)):
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            if not node.level:
                if full.partition(".")[0] != him.__name__:
                    continue
                full = full.removeprefix(him.__name__).lstrip(".")
            for alias in node.names:
                inner = f"{full}.{alias.name}".lstrip(".")
                yield (inner if inner in known else full), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == him.__name__:
                    yield alias.name.removeprefix(him.__name__).lstrip("."), node.lineno


def upward(name: str, path: Path, source: str | None = None) -> list[str]:
    """The imports of a module that point up, or aside."""
    wing = name.partition(".")[0]
    allowed = {wing, *GROUND, *WINGS.get(wing, "").split()}
    found = [(target, line) for target, line in imports(name, path, source) if target.partition(".")[0] not in allowed]
    return [f"{name}:{line} imports {target}" for target, line in found]


@pytest.mark.parametrize("name", sorted(modules()))
def test_nothing_points_up(name):
    assert name in ("", "errors", "versions") or name.partition(".")[0] in WINGS
    assert not upward(name, modules()[name])


@pytest.mark.parametrize(
    "line",
    [
        "from ..sweep.session import run_sweep",
        "def f():\n    from ..indicators.perplexity import Perplexity",
        "if TYPE_CHECKING:\n    from ..estimator.estimator import LossEstimator",
        "import hf_instructmine.cli.main",
        "from hf_instructmine.estimator import rule",
    ],
)
def test_an_upward_import_is_found(line):
    path = modules()["regression.fit"]
    assert len(upward("regression.fit", path, path.read_text("utf-8") + "\n" + line)) == 1


def test_there_is_no_circle_annotations_included():
    graph = {name: {target for target, _ in imports(name, path)} - {name, ""} for name, path in modules().items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
    assert set(graph) - {""} <= set(order)


def test_no_module_bears_a_public_name():
    # Python makes an imported module an attribute of its package: it would take the place of the function.
    assert not set(him.__all__) & {name.partition(".")[0] for name in modules()}


def test_the_door_shows_few_rooms():
    rooms = [path for path in SOURCE.iterdir() if path.suffix == ".py"]
    assert len(rooms) <= MOST_ROOMS


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef, lines: list[str]) -> int:
    """Lines of a function's body without its docstring, comments and blank lines."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if documented else first.lineno - 1
    body = (line.strip() for line in lines[start : function.end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in body)


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_room_is_too_large(name):
    text = modules()[name].read_text("utf-8")
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    long = {f.name: code_lines(f, lines) for f in functions(ast.parse(text))}
    assert not {name: count for name, count in long.items() if count > MOST_CODE}


def test_importing_the_package_alone_imports_no_wing():
    loaded = "import sys, hf_instructmine; print([m for m in sys.modules if m.startswith('hf_instructmine.')])"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_no_two_files_of_tests_have_one_name():
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []  # pytest would import one of them
