"""The house rules, enforced: who may import whom, how long a file or a function may be, what is documented.

Exceptions are listed here and, with their reason, in ARCHITECTURE.md; one that no longer is needed fails too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "zmqbroker"

#: What each part may import from the package; its own files always.
BASE = {"errors", "config", "commands"}
ALLOWED: dict[str, set[str]] = {
    "__init__": {"client"},
    "__main__": {"cli"},
    "_build": set(),
    "checksum": {"_build", "wire"},
    "errors": set(),
    "commands": {"errors"},
    "config": {"errors"},
    "raft": BASE,
    "broker": BASE,
    "realtime": BASE,
    "wire": BASE | {"raft.messages", "raft.view", "_build"},
    "storage": BASE | {"raft.messages", "raft.view", "checksum", "_build"},
    "server": BASE | {"raft", "wire", "broker", "realtime", "storage", "checksum", "_build"},
    "client": BASE | {"wire"},
    "cli": BASE | {"wire", "client"},
}
#: Files with a job that needs one import more.
ALLOWED_EXTRA = {
    "cli/serve.py": {"server"},  # it is the server
    "cli/log.py": {"server", "storage"},  # these four work on the files of nodes that do not run
    "cli/recover.py": {"server", "storage"},
    "cli/restore.py": {"server", "storage"},
    "cli/verify_directory.py": {"server", "storage"},
    "cli/dev.py": {"storage"},  # asks whether a file system can be trusted before it starts nodes there
}

#: Functions of their inputs: no clock, no sockets, no files, no chance of their own.
PURE = (
    "errors/",
    "commands/",
    "config/",
    "raft/",
    "wire/",
    "broker/",
    "realtime/",
    "client/session.py",
    "client/routing.py",
    "client/search.py",
    "client/cursor.py",
    "client/home.py",
    "client/call_values.py",
    "client/call_bundles.py",
)
IMPURE_MODULES = {
    "asyncio",
    "zmq",
    "lmdb",
    "socket",
    "os",
    "time",
    "threading",
    "logging",
    "datetime",
    "uvloop",
    "secrets",
    "uuid",
}

FILE_LINES, FILE_LINES_MAX = 400, 700
FUNCTION_LINES, FUNCTION_LINES_MAX, FUNCTION_LINES_P90 = 40, 70, 30

#: Over the soft budget, explained in ARCHITECTURE.md under this very name.
LONG: set[str] = set()


def name_of(path: Path) -> str:
    """The path inside the package, as the tables above and ARCHITECTURE.md have it."""
    return path.relative_to(PACKAGE).as_posix()


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py"))


def python_files() -> list[Path]:
    """Every Python file of the repository."""
    found = [ROOT / "setup.py", *modules()]
    for folder in ("tests", "bench"):
        found += sorted((ROOT / folder).rglob("*.py"))
    return found


def documents() -> list[Path]:
    """Every document of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in the file; `from a import b` gives `a.b`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every function with its length in lines."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{name_of(path)}:{node.name}", node.end_lineno - node.lineno + 1


def forbidden_imports(path: Path) -> list[str]:
    """Imports from the package that the table does not allow this file."""
    part = name_of(path).partition("/")[0].removesuffix(".py")
    allowed = ALLOWED[part] | ALLOWED_EXTRA.get(name_of(path), set())
    wrong = []
    for imported in imports_of(path):
        if not imported.startswith("zmqbroker."):
            continue
        wanted = imported.removeprefix("zmqbroker.")
        if not any(wanted == name or wanted.startswith(f"{name}.") for name in {part, *allowed}):
            wrong.append(imported)
    return wrong


def offenders(paths: Iterable[Path], find: Callable[[Path], Iterable[str]]) -> list[str]:
    """What `find` complains about, each with its file."""
    return [f"{path.relative_to(ROOT).as_posix()}: {fault}" for path in paths for fault in find(path)]


def test_modules_import_only_what_their_place_allows() -> None:
    assert offenders(modules(), forbidden_imports) == []


def test_pure_modules_import_no_clock_socket_or_file() -> None:
    pure = [path for path in modules() if name_of(path).startswith(PURE)]
    assert offenders(pure, lambda path: (name for name in imports_of(path) if name.partition(".")[0] in IMPURE_MODULES)) == []


def test_import_exceptions_are_still_needed() -> None:
    for name, extra in ALLOWED_EXTRA.items():
        used = {imported.split(".")[1] for imported in imports_of(PACKAGE / name) if imported.startswith("zmqbroker.")}
        assert extra <= used, name


def approximations(path: Path) -> Iterator[str]:
    """Floats, true divisions and hash(): what could differ between two nodes that apply the same entry."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"float in line {node.lineno}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield f"division in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hash", "float"):
            yield f"{node.func.id}() in line {node.lineno}"


def test_state_machine_has_no_float_and_no_hash() -> None:
    assert offenders((path for path in modules() if name_of(path).startswith("broker/")), approximations) == []


def over_budget(path: Path) -> Iterator[str]:
    """A file or functions that are too long; those in LONG may reach the hard limit."""
    if line_count(path) > (FILE_LINES_MAX if name_of(path) in LONG else FILE_LINES):
        yield f"{line_count(path)} lines"
    for name, length in functions_of(path):
        if length > (FUNCTION_LINES_MAX if name in LONG else FUNCTION_LINES):
            yield f"{name} has {length} lines"


def line_count(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_and_functions_are_within_the_budget() -> None:
    assert offenders(modules(), over_budget) == []


def test_functions_nine_of_ten_are_short() -> None:
    lengths = sorted(length for path in modules() for _, length in functions_of(path))
    assert lengths[len(lengths) * 9 // 10] <= FUNCTION_LINES_P90


def test_long_exceptions_are_needed_and_explained() -> None:
    explained = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    long_files = {name_of(path) for path in modules() if line_count(path) > FILE_LINES}
    long_functions = {name for path in modules() for name, length in functions_of(path) if length > FUNCTION_LINES}
    assert long_files | long_functions == LONG
    assert [name for name in LONG if f"`{name}`" not in explained] == []


def test_python_files_elsewhere_stay_below_the_hard_limit() -> None:
    assert [str(path) for path in python_files() if line_count(path) > FILE_LINES_MAX] == []


def module_docstring_faults(path: Path) -> Iterator[str]:
    """A module without a docstring, or with one that says nothing; empty packages of tests need none."""
    text = ast.get_docstring(tree_of(path)) or ""
    if len(text) < 20 and (tree_of(path).body or path.is_relative_to(PACKAGE)):
        yield f"docstring {text!r}"


def test_modules_say_what_they_are() -> None:
    assert offenders(python_files(), module_docstring_faults) == []


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    """Public functions and classes at the top of a module, and the public methods of those classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", inner) for name, inner in public_definitions(node))


def undocumented(path: Path) -> Iterator[str]:
    """Public names without a docstring."""
    return (name for name, node in public_definitions(tree_of(path)) if not ast.get_docstring(node))


def test_public_names_have_a_docstring() -> None:
    assert offenders(modules(), undocumented) == []


def exported(path: Path) -> list[str]:
    """The list `__all__` of a module, empty when it has none."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    return []


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions; the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_exported_names_are_sorted_and_unique() -> None:
    wrong = [name_of(path) for path in modules() if exported(path) != sorted(set(exported(path)), key=export_order)]
    assert wrong == []


def test_errors_and_commands_export_every_public_class() -> None:
    for path in (*(PACKAGE / "errors").glob("[a-z]*.py"), *(PACKAGE / "commands").glob("[a-z]*.py")):
        classes = {name for name, node in public_definitions(tree_of(path)) if isinstance(node, ast.ClassDef)}
        assert classes <= set(exported(path))
        assert set(exported(path)) <= set(exported(path.parent / "__init__.py"))


def test_modules_have_names_that_say_something() -> None:
    empty = {"utils", "util", "common", "helpers", "misc"}
    assert [name_of(path) for path in modules() if set(path.relative_to(PACKAGE).with_suffix("").parts) & empty] == []


def broad_handlers(path: Path) -> Iterator[str]:
    """`except` of everything, which only the door of a program may have; one that raises again only passes by."""
    for node in ast.walk(tree_of(path)):
        last = node.body[-1] if isinstance(node, ast.ExceptHandler) else None
        if isinstance(node, ast.ExceptHandler) and not (isinstance(last, ast.Raise) and last.exc is None):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {"BaseException" if kind is None else ast.unparse(kind) for kind in kinds}
            if names & {"Exception", "BaseException"}:
                yield f"line {node.lineno}"


def test_broad_except_stands_only_at_the_door() -> None:
    assert offenders((path for path in modules() if path.name != "__main__.py"), broad_handlers) == []


def text_files() -> list[Path]:
    """Everything that people read or machines run, this file left out: it holds the patterns."""
    found = [*python_files(), *documents(), ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in (".ci", "deploy", "ext"):
        found += sorted(path for path in (ROOT / folder).iterdir() if path.is_file())
    return [path for path in found if path != Path(__file__).resolve() and path.suffix not in (".so", ".c")]


def test_text_files_have_no_reminder_and_no_path_of_a_machine() -> None:
    reminder, place = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b"), re.compile(r"(?:/work/|/home/\w|/root/|/Users/)\S*")
    texts = {path: path.read_text(encoding="utf-8") for path in text_files()}
    assert offenders(texts, lambda path: [*reminder.findall(texts[path]), *place.findall(texts[path])]) == []


def links(document: Path) -> Iterator[str]:
    """Targets of links to other files of the repository that are not there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target) and not (document.parent / target.partition("#")[0]).exists():
            yield target


def test_links_of_documents_lead_somewhere() -> None:
    assert offenders(documents(), links) == []


def test_readme_names_the_way_in() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in ("make run", "make test", "docs/PROTOCOL.md", "docs/OPERATIONS.md") if name not in text] == []


def test_forbidden_imports_finds_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "raft").mkdir()
    stranger = tmp_path / "raft" / "core.py"
    stranger.write_text(
        "from zmqbroker.errors import Busy\nfrom zmqbroker.broker import Machine\n\ndef f():\n    import zmqbroker.wire\n"
    )
    assert forbidden_imports(stranger) == ["zmqbroker.broker.Machine", "zmqbroker.wire"]
