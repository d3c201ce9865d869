"""What no file of the project may be or hold: too long, a drawer, a mark for later, a place on somebody's machine."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.tree import files, nodes, python_files, read, text_files

LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines
DRAWERS = {"util", "utils", "helper", "helpers", "common", "core", "misc", "base", "lib", "tools", "stuff"}
EMPTY_WORDS = ("Manager", "Factory", "Base", "Impl", "Helper", "Util", "Utils")

# Written so that they do not find themselves.
MARKS = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X|HAC[K])\b")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|pytorch\.org/whl|docker\.io|ghcr\.io|quay\.io|nvcr\.io|registry\.k8s|index[-]url"
)
MACHINES = re.compile(
    r"(?<![\w.\-/}>])/(?:work|root|home/(?!me\b)[\w-]+|Users/[\w-]+)(?![\w.\-])"
)  # /home/me is nobody
NEIGHBOURS = re.compile(r"\bshared/")  # data beside the checkout, which only tests may ask for


def python_lines() -> dict[Path, int]:
    return {path: len(read(str(path)).splitlines()) for path in python_files()}


def test_a_file_has_at_most_400_lines() -> None:
    assert {str(path): count for path, count in python_lines().items() if count > LONGEST_FILE} == {}


def test_a_function_has_at_most_60_lines() -> None:
    long = {
        f"{path}:{node.lineno} {node.name}": length
        for path, node in nodes()
        if path.parts[:2] != ("migrations", "versions")  # a record of what the tool wrote, read once
        and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }

    assert long == {}


def test_every_file_is_named_for_what_is_in_it() -> None:
    assert [str(path) for path in files() if DRAWERS & {Path(part).stem.lower() for part in path.parts}] == []


def test_a_class_is_named_for_what_it_is() -> None:
    empty = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_WORDS)
    ]

    assert empty == []


def test_every_file_of_the_product_says_what_it_is() -> None:
    silent = [
        str(path)
        for path in python_files("vlyard", "db", "control", "api", "workers")
        if read(str(path)).strip() and not ast.get_docstring(ast.parse(read(str(path))))
    ]

    assert silent == []


@pytest.mark.parametrize(
    ("pattern", "exempt"),
    [
        pytest.param(MARKS, (), id="marks for later"),
        pytest.param(REGISTRIES, (), id="download hosts"),
        pytest.param(MACHINES, (), id="places on a machine"),
        pytest.param(NEIGHBOURS, ("tests",), id="data beside the checkout"),
    ],
)
def test_no_file_mentions(pattern: re.Pattern[str], exempt: tuple[str, ...]) -> None:
    found = [
        f"{path}:{number} {line.strip()[:100]}"
        for path, text in text_files()
        if path.parts[0] not in exempt and path.suffix not in {".json", ".svg"}
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]

    assert found == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MARKS, "# TO" + "DO: later"),
        (REGISTRIES, "https://pypi" + ".org/simple"),
        (MACHINES, 'Path("/' + 'work/data")'),
        (MACHINES, "see /" + "home/somebody"),
        (NEIGHBOURS, "../share" + "d/data"),
    ],
)
def test_a_forbidden_mention_is_found(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


@pytest.mark.parametrize("line", ["vlyard/work", "/workers", "./root", "https://a.example/home/x", "a todo list"])
def test_an_innocent_line_is_left_alone(line: str) -> None:
    assert not any(pattern.search(line) for pattern in (MARKS, REGISTRIES, MACHINES, NEIGHBOURS))


def test_nothing_is_left_unwritten_and_no_error_is_swallowed() -> None:
    found = [f"{path}:{getattr(node, 'lineno', 0)}" for path, node in nodes() if is_unfinished(node) or swallows(node)]

    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "raise NotImplementedError",
        "raise NotImplementedError('later')",
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    ...",
        "pytest.skip()",
        "@pytest.mark.skip\ndef test(): f()",
        "@pytest.mark.xfail()\ndef test(): f()",
    ],
)
def test_what_is_unfinished_or_swallowed_is_found(text: str) -> None:
    assert any(is_unfinished(node) or swallows(node) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    log(error)",
        "pytest.skip('there is no GPU')",
        "@pytest.mark.skipif(x, reason='why')\ndef test(): f()",
    ],
)
def test_what_is_finished_is_left_alone(text: str) -> None:
    assert not any(is_unfinished(node) or swallows(node) for node in ast.walk(ast.parse(text)))


def is_unfinished(node: ast.AST) -> bool:
    """Whether the node stands for work that was left, or skips a test without saying why."""
    match node:
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
        case ast.Call(func=ast.Attribute(attr="skip" | "skipif" | "xfail"), args=args, keywords=keywords):
            said = [*args[1:], *args[:1]] if ast.unparse(node.func) == "pytest.skip" else args[1:]
            return not said and not any(keyword.arg == "reason" for keyword in keywords)
        case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
            return any(ast.unparse(each) in {"pytest.mark.skip", "pytest.mark.xfail"} for each in decorators)
        case _:
            return False


def swallows(node: ast.AST) -> bool:
    """Whether the node is a handler that takes every error, or hides one of any kind."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    if node.type is None:
        return True
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    everything = {ast.unparse(each) for each in caught} & {"Exception", "BaseException"}
    idle = all(
        isinstance(each, ast.Pass | ast.Continue)
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in node.body
    )
    return bool(everything) and idle
