"""Rooms of the package: imports only go down, so folders have no import cycles.

No other test reads imports. The order is the one of docs/architecture.md.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vmt_mm"
#: From the top down: a room imports only from rooms below it.
ROOMS = [
    "cli", "apis", "export", "conversion", "analysis", "engine", "loading", "config", "models",
    "weighting", "datasets", "rendering", "evaluation", "visualization", "structures", "peft",
    "checkpoints", "tasks", "utils", "registry", "errors",
]  # fmt: skip


def test_every_room_is_in_the_order():
    found = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__pycache__", "weights"} == set(ROOMS)


def test_no_room_imports_from_above():
    up = [
        f"{path.relative_to(PACKAGE)} imports vmt_mm.{target}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for target in imported_rooms(path.read_text())
        if (room := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in ROOMS
        and ROOMS.index(target) < ROOMS.index(room)
    ]
    assert up == []


def test_an_import_inside_a_function_counts():
    assert [*imported_rooms("def f():\n    from vmt_mm.apis import x")] == ["apis"]
    assert [*imported_rooms("from vmt_mm import cli, __version__")] == ["cli"]
    assert [*imported_rooms("import vmt_mm.engine.loops, torch")] == ["engine"]


def imported_rooms(source: str) -> Iterator[str]:
    """Rooms of ``vmt_mm`` that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [node.module or ""]
            if node.module == "vmt_mm":
                names = [f"vmt_mm.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "vmt_mm" and len(parts) > 1 and parts[1] in ROOMS:
                yield parts[1]
