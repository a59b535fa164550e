"""The directions of imports: which room may know which, and when something heavy is loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import smidgen

SOURCE = Path(smidgen.__file__).parent

# errors ← config, files, runs, backend, data         errors, config and files may be imported by any room
# text side:   data ← tasks ← evaluation (also runs)  never imports mlx
# array side:  backend ← models ← export;  models, data, export ← inference ← training;  data, inference ← serving
# cli ← everything
ANYWHERE = {"smidgen", "errors", "config", "files"}
ALLOWED = {
    "smidgen": set(),
    "errors": set(),
    "files": {"errors"},
    "config": {"errors"},
    "runs": set(),
    "backend": set(),
    "cpu_kernels": {"backend"},
    "data": set(),
    "tasks": {"data"},
    "evaluation": {"tasks", "data", "runs"},
    "models": {"backend", "cpu_kernels", "data"},
    "export": {"backend", "cpu_kernels", "models", "data"},
    "inference": {"backend", "cpu_kernels", "models", "data", "export"},
    "training": {"backend", "cpu_kernels", "models", "data", "export", "inference", "runs"},
    "serving": {"data", "inference"},
}
TEXT_SIDE = ("errors", "files", "config", "runs", "data", "tasks", "evaluation")
ARRAY_ROOMS = ("models", "export", "inference", "training", "serving")
ARRAY_LIBRARIES = {"mlx", "mlx_lm"}


class Import(NamedTuple):
    """One import statement: who imports what, where, and whether it waits inside a function without need.

    What may be missing on a machine is imported where its absence is caught.
    """

    file: Path
    line: int
    module: str
    inside: bool

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(SOURCE.parent)}:{self.line} imports {self.module}"


def room_of(file: Path) -> str:
    """The room of a file: its folder or file right under the package."""
    first = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "smidgen" if first == "__init__" else first


def catches_absence(node: ast.AST) -> bool:
    """Whether a node is a `try` that catches ImportError."""
    return isinstance(node, ast.Try) and any(
        "ImportError" in ast.unparse(handler) for handler in node.handlers
    )


def imports_of(file: Path) -> Iterator[Import]:
    """Every import of a file, those for type checking left out: they load nothing."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, child.lineno, alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno} is relative; write the whole name"
                named = child.module or ""
                # `from smidgen import backend` names a room as `from smidgen.backend import mx` does
                names = [f"smidgen.{alias.name}" for alias in child.names] if named == "smidgen" else [named]
                yield from (Import(file, child.lineno, name, inside) for name in names)
            elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, (inside or function) and not catches_absence(child))

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), False)


FILES = sorted(SOURCE.rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]


def target_room(module: str) -> str | None:
    """The room that an import names, or None outside the package."""
    if module != "smidgen" and not module.startswith("smidgen."):
        return None
    name = module.partition(".")[2].partition(".")[0]
    return name if (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").exists() else "smidgen"


def test_rooms_know_only_the_rooms_before_them():
    wrong = [
        found.place
        for found in IMPORTS
        if (room := room_of(found.file)) != "cli"
        and (target := target_room(found.module)) is not None
        and target not in {room} | ALLOWED[room] | (ANYWHERE if room not in ANYWHERE else {"smidgen"})
    ]
    assert not wrong, wrong


def test_every_room_has_its_directions():
    assert {room_of(file) for file in FILES} - {"cli"} <= set(ALLOWED)


def test_the_directions_have_no_circle():
    def reached(room: str) -> set[str]:
        return ALLOWED[room].union(*(reached(other) for other in ALLOWED[room]))

    assert all(room not in reached(room) for room in ALLOWED)


def test_text_side_names_no_array_library():
    wrong = [
        found.place
        for found in IMPORTS
        if room_of(found.file) in TEXT_SIDE and found.module.partition(".")[0] in ARRAY_LIBRARIES
    ]
    assert not wrong, wrong


def test_imports_stand_at_the_top_of_files():
    wrong = [
        found.place
        for found in IMPORTS
        if found.inside and room_of(found.file) != "cli" and found.file.name != "__init__.py"
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("room", [room for room in ARRAY_ROOMS if (SOURCE / room).is_dir()])
def test_array_rooms_import_the_backend_before_mlx(room: str):
    loaded = [found.module for found in imports_of(SOURCE / room / "__init__.py") if not found.inside]
    assert loaded[:1] == ["smidgen.backend"], f"{room}/__init__.py must import smidgen.backend first"


def modules_after(code: str) -> set[str]:
    """The top-level packages that are loaded after `code` ran in a new process."""
    report = "import sys; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_help_loads_no_heavy_library():
    code = "import smidgen.cli.app\nsmidgen.cli.app.exit_code(['--help'])"
    heavy = {
        "mlx",
        "mlx_lm",
        "transformers",
        "tokenizers",
        "numpy",
        "scipy",
        "sklearn",
        "matplotlib",
        "pydantic",
    }
    assert not modules_after(code) & heavy


@pytest.mark.parametrize(
    "room",
    ["files", "runs", "config", *(r for r in ("data", "tasks", "evaluation") if (SOURCE / r).is_dir())],
)
def test_text_side_loads_no_array_library(room: str):
    modules = [
        ".".join(("smidgen", *file.relative_to(SOURCE).with_suffix("").parts))
        for file in FILES
        if room_of(file) == room and file.name != "__init__.py"
    ]
    assert not modules_after("import " + ", ".join(modules)) & ARRAY_LIBRARIES
