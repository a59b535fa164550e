"""The directions of imports: which room may know which, and when something heavy is loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.tools.source import FILES, SOURCE, tree_of

# errors ← config, files, runs, backend, data
# errors, config, cache and files may be imported by any room
# text side:   data ← tasks ← evaluation (also runs)  never imports mlx
# gguf (files of llama.cpp, read): data; no array library either
# array side:  backend, gguf ← models ← export;  models, data, export ← inference ← training
# serving (the server): the engines, and the Python doors that its endpoints offer; backend to end its thread
# studio (the local page): config and runs; it starts the same commands as child processes and reads run folders
# memory (the router's store): data; no engine, it is handed decisions
# tracking (experiment trackers): knows only config and errors
# options (what commands and functions take together): data
# benchmark: backend, models, inference, options
# judge (the Python door): tasks, evaluation, inference, options
# router (the Python door to memory decisions): tasks, inference, options, memory; backend to end its thread,
#   config to read what a run has learnt
# cli ← everything
ANYWHERE = {"smidgen", "errors", "config", "cache", "files"}
ALLOWED = {
    "smidgen": {"judge", "options", "router"},
    "errors": set(),
    "cache": set(),
    "files": {"errors", "cache"},
    "config": {"errors"},
    "runs": set(),
    "backend": set(),
    "cpu_kernels": {"backend"},
    "data": set(),
    "options": {"data"},
    "figures": set(),
    "tasks": {"data", "figures"},
    "evaluation": {"tasks", "data", "runs", "figures"},
    "tracking": set(),
    "memory": {"data"},
    "gguf": {"data"},
    "models": {"backend", "cpu_kernels", "data", "gguf"},
    "export": {"backend", "cpu_kernels", "models", "data", "gguf"},
    "inference": {"backend", "cpu_kernels", "models", "data", "export", "options", "gguf"},
    "training": {"backend", "cpu_kernels", "models", "data", "export", "inference", "runs"},
    "serving": {"backend", "data", "inference", "options", "tasks", "judge", "router", "memory"},
    "studio": {"config", "runs"},
    "benchmark": {"backend", "models", "data", "inference", "options"},
    "judge": {"data", "tasks", "evaluation", "inference", "options"},
    "router": {"backend", "config", "data", "tasks", "inference", "options", "memory"},
    "pipeline": {
        "backend", "data", "options", "figures", "tasks", "evaluation", "models", "export", "inference",
        "training", "runs", "tracking",
    },
}  # fmt: skip
TEXT_SIDE = (
    "errors",
    "cache",
    "files",
    "config",
    "options",
    "runs",
    "data",
    "gguf",
    "figures",
    "tasks",
    "evaluation",
    "tracking",
    "memory",
)
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
    """The room of a file: its folder or file right under the package; `python -m smidgen` is the CLI."""
    first = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return {"__init__": "smidgen", "__main__": "cli"}.get(first, first)


def files_of(module: str) -> list[Path]:
    """The files that importing a module of the package runs, in their order; empty for any other name."""
    first, *rest = module.split(".")
    place = SOURCE.joinpath(*rest)
    if first != "smidgen" or not (place.is_dir() or place.with_suffix(".py").exists()):
        return []
    packages = [SOURCE.joinpath(*rest[:depth], "__init__.py") for depth in range(len(rest) + 1)]
    return [file for file in (*packages, place.with_suffix(".py")) if file.exists()]


def catches_absence(node: ast.AST) -> bool:
    """Whether a node is a `try` that catches ImportError."""
    return isinstance(node, ast.Try) and any(
        "ImportError" in ast.unparse(handler) for handler in node.handlers
    )


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    """Every import of a file, those for type checking left out: they load nothing."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, child.lineno, alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno} is relative; write the whole name"
                # `from smidgen import backend` loads a room as `from smidgen.backend import mx` does
                whole = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name if files_of(name) else child.module or "" for name in whole]
                yield from (Import(file, child.lineno, name, inside) for name in dict.fromkeys(names))
            elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, (inside or function) and not catches_absence(child))

    return tuple(walk(tree_of(file), False))


@cache
def all_imports() -> list[Import]:
    return [found for file in FILES for found in imports_of(file)]


def target_room(module: str) -> str | None:
    """The room that an import names, or None outside the package."""
    first, *rest = module.split(".")
    if first != "smidgen":
        return None
    return rest[0] if rest else "smidgen"


def test_the_walk_sees_every_import_that_loads_something(tmp_path: Path):
    file = tmp_path / "rooms.py"
    file.write_text(
        "from smidgen import backend\n"
        "if TYPE_CHECKING:\n    import unseen\n"
        "def work():\n    import late.module\n"
        "    try:\n        import optional\n    except ImportError:\n        pass\n"
    )
    seen = [(found.module, found.inside) for found in imports_of(file)]
    assert seen == [("smidgen.backend", False), ("late.module", True), ("optional", False)]


def test_rooms_know_only_the_rooms_before_them():
    wrong = [
        found.place
        for found in all_imports()
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


def test_files_have_no_circle():
    """No file needs itself by way of others, wherever in them the imports stand, the CLI's included."""
    known = {
        file: {path for found in imports_of(file) for path in files_of(found.module)[-1:]} for file in FILES
    }
    known = {file: {path for path in paths if path.name != "__init__.py"} for file, paths in known.items()}

    def circle_through(file: Path, way: tuple[Path, ...]) -> list[str]:
        if file in way:
            return [str(step.relative_to(SOURCE)) for step in (*way[way.index(file) :], file)]
        if file in cleared:
            return []
        for other in sorted(known[file]):
            if found := circle_through(other, (*way, file)):
                return found
        cleared.add(file)
        return []

    cleared: set[Path] = set()
    assert not [circle for file in FILES if (circle := circle_through(file, ()))]


def test_text_side_names_no_array_library():
    wrong = [
        found.place
        for found in all_imports()
        if room_of(found.file) in TEXT_SIDE and found.module.partition(".")[0] in ARRAY_LIBRARIES
    ]
    assert not wrong, wrong


def test_imports_stand_at_the_top_of_files():
    wrong = [
        found.place
        for found in all_imports()
        if found.inside and room_of(found.file) != "cli" and found.file.name != "__init__.py"
    ]
    assert not wrong, wrong


def reaches_first(files: list[Path], known: dict[Path, str | None]) -> str | None:
    """What running files loads first of the backend and MLX: the place of an import of MLX, or `backend`.

    What is `known` of files is kept: those that are run a second time, or in a circle, load nothing.
    """
    for file in files:
        if file not in known:
            known[file] = None
            known[file] = next(filter(None, (_reached(found, known) for found in imports_of(file))), None)
        if known[file]:
            return known[file]
    return None


def _reached(found: Import, known: dict[Path, str | None]) -> str | None:
    if found.inside:
        return None
    if found.module == "smidgen.backend":
        return "backend"
    is_array = found.module.partition(".")[0] in ARRAY_LIBRARIES
    return found.place if is_array else reaches_first(files_of(found.module), known)


def test_the_first_of_backend_and_mlx_is_found(monkeypatch: pytest.MonkeyPatch):
    imports = {
        "clean": ["smidgen.circle", "smidgen.backend", "mlx.core"],
        "circle": ["smidgen.clean"],
        "early": ["smidgen.empty", "mlx.core", "smidgen.backend"],
        "empty": [],
    }
    files = {name: SOURCE / f"{name}.py" for name in imports}
    here = sys.modules[__name__]
    monkeypatch.setattr(
        here, "imports_of", lambda file: [Import(file, 1, name, False) for name in imports[file.stem]]
    )
    monkeypatch.setattr(here, "files_of", lambda module: [files[module.partition(".")[2]]])
    known: dict[Path, str | None] = {}
    found = {name: reaches_first([file], known) for name, file in files.items()}
    assert found["clean"] == "backend" and found["empty"] is None
    assert str(found["early"]).endswith("early.py:1 imports mlx.core")


def test_nothing_imports_mlx_before_the_backend():
    modules = {".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in FILES}
    modules -= {"smidgen.backend"}
    known: dict[Path, str | None] = {}
    first = {name: reaches_first(files_of(name.removesuffix(".__init__")), known) for name in sorted(modules)}
    early = {name: place for name, place in first.items() if place not in (None, "backend")}
    assert not early, early


def modules_after(code: str) -> set[str]:
    """The top-level packages that are loaded after `code` ran in a new process."""
    report = "import sys; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    assert not done.stderr
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


def test_text_side_loads_no_array_library():
    modules = [
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        for file in FILES
        if room_of(file) in TEXT_SIDE and file.name != "__init__.py"
    ]
    assert not modules_after("import " + ", ".join(modules)) & {*ARRAY_LIBRARIES, "torch"}
