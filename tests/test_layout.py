"""The package's layers: what may import what, and how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "atari_dqn"
LAYERS = (
    {"utils"}, {"data"}, {"registry"}, {"config"}, {"envs"}, {"dqn"}, {"checkpoint"}, {"tracking"}, {"evaluation"},
    {"viewing"}, {"training"}, {"analysis", "exchange", "sweep", "testing"}, {"api"}, {"cli"},
)  # fmt: skip
RANK = {folder: rank for rank, layer in enumerate(LAYERS) for folder in layer}
ALGORITHM = ("dqn", "config.schema", "envs.base", "utils")  # all that dqn/ needs
MOST_LINES = 300


class Import(NamedTuple):
    by: str  # a module's name without the package's, e.g. envs.atari; "" for the package itself
    line: int
    of: str
    late: bool  # inside a function, or for the type checker alone


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
        is_late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_late |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        yield from statements(child, late or is_late)


def imports(tree: ast.AST, by: str) -> Iterator[Import]:
    """The package's modules that a file imports: `from atari_dqn.envs import base` is of envs.base."""
    for statement, late in statements(tree):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            assert not statement.level, f"{by}, line {statement.lineno}: imports are absolute"
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        for name in names:
            package, _, of = name.partition(".")
            if package == PACKAGE.name:
                while of not in MODULES:
                    of = of.rpartition(".")[0]
                yield Import(by, statement.lineno, of, late)


IMPORTS = [one for name, path in MODULES.items() for one in imports(ast.parse(path.read_text(encoding="utf-8")), name)]


def is_wrong(one: Import) -> bool:
    """Whether a file imports from another folder of its own layer, or from a higher one."""
    by, of = one.by.partition(".")[0], one.of.partition(".")[0]
    if by not in RANK:  # __main__, and the package itself
        return False
    if of not in RANK:
        return of != ""
    return by != of and RANK[by] <= RANK[of]


def is_beside_the_algorithm(one: Import) -> bool:
    allowed = any(f"{one.of}.".startswith(f"{name}.") for name in ALGORITHM)
    return one.by.startswith("dqn.") and not allowed


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a cycle; none where there is no cycle."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (search(of, [*path, module]) for of in sorted(graph[module]))), [])
        done.add(module)
        return found

    return next(filter(None, (search(module, []) for module in graph)), [])


def told(found: list[Import]) -> list[str]:
    return [f"{one.by}, line {one.line}: imports {one.of}" for one in found]


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == RANK.keys()


def test_a_file_imports_its_own_folder_or_a_lower_layer():
    assert not told([one for one in IMPORTS if is_wrong(one)])


def test_the_algorithm_needs_the_schema_the_emulators_face_and_utils():
    assert not told([one for one in IMPORTS if is_beside_the_algorithm(one)])


def test_only_a_run_chooses_where_its_games_are_played():
    assert {one.by for one in IMPORTS if one.of == "envs.remote"} == {"training.backend"}


def test_modules_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in IMPORTS:
        if not one.late and one.of != one.by:
            graph[one.by].add(one.of)
    assert not cycle(graph)


def test_files_are_short():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in MODULES.values()}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


@pytest.mark.parametrize(
    ("by", "code", "of", "late"),
    [
        ("envs.atari", "from atari_dqn.dqn.replay import CUT", "dqn.replay", False),
        ("envs.atari", "from atari_dqn.dqn import replay", "dqn.replay", False),
        ("envs.atari", "import atari_dqn.dqn.replay", "dqn.replay", False),
        ("envs.atari", "def make():\n    from atari_dqn.dqn import replay", "dqn.replay", True),
        ("envs.atari", "if TYPE_CHECKING:\n    from atari_dqn.dqn import replay", "dqn.replay", True),
        ("sweep.sweep", "from atari_dqn.analysis import report", "analysis.report", False),
        ("dqn.loop", "from atari_dqn import __main__", "__main__", False),
    ],
)
def test_wrong_imports_are_found(by, code, of, late):
    (found,) = imports(ast.parse(code), by)
    assert (found.of, found.late) == (of, late)
    assert is_wrong(found)


def test_cycles_are_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
