"""Write docs/api.md from the docstrings; ``--check`` only says whether it is up to date.

python tools/misc/make_api_reference.py [--check]

The sources are read, not imported: the page is the same on every machine, whichever libraries it
has.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmt_mm.utils.console import ToolParser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/api.md"
#: Packages, by what their ``__all__`` names, and modules, by what is public in them.
MODULES = (
    "vmt_mm.apis",
    "vmt_mm.loading.adapters",
    "vmt_mm.loading.switch",
    "vmt_mm.peft",
    "vmt_mm.models",
    "vmt_mm.models.backbones",
    "vmt_mm.models.heads",
    "vmt_mm.tasks",
    "vmt_mm.datasets",
    "vmt_mm.datasets.transforms",
    "vmt_mm.engine.hooks",
    "vmt_mm.evaluation",
)
HEAD = """\
# API reference

Made from the docstrings by `python tools/misc/make_api_reference.py`; do not edit it by hand. A
function or class can be imported from the package whose heading it stands below.
"""
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)
_ENTRY = re.compile(r"(\*{0,2}\w[\w.]*): (.*)")
_ROLE = re.compile(r":\w+:`~?([^`]*)`")
Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Public:
    """A public class or function.

    Attributes:
        name: under which it is imported.
        node: its definition.
    """

    name: str
    node: Definition


def module_path(module: str) -> Path:
    """The file of a module or package of this repository.

    Raises:
        FileNotFoundError: if there is none.
    """
    base = ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no module {module} below {ROOT}")


@functools.cache
def read(module: str) -> ast.Module:
    """Parse a module."""
    return ast.parse(module_path(module).read_text(encoding="utf-8"))


def public_of(module: str) -> list[Public]:
    """What a module offers: the names of ``__all__``, or what it defines; modules are left out."""
    tree = read(module)
    names = declared_names(tree)
    if names is None:
        return [
            Public(node.name, node)
            for node in tree.body
            if isinstance(node, Definition) and not node.name.startswith("_")
        ]
    found = ((name, find(module, name)) for name in names)
    return [Public(name, node) for name, node in found if node is not None]


def declared_names(tree: ast.Module) -> list[str] | None:
    """The names in ``__all__``; None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def find(module: str, name: str) -> Definition | None:
    """The definition of a name, through imports; None if it is a module or a value."""
    for node in read(module).body:
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                # a package that imports from itself imports a module
                elsewhere = node.module.startswith("vmt_mm") and node.module != module
                if elsewhere and (alias.asname or alias.name) == name:
                    return find(node.module, alias.name)
    return None


def signature(name: str, node: Definition) -> str:
    """The signature as it is written, without ``self``; a class has that of its ``__init__``."""
    function = node
    if isinstance(node, ast.ClassDef):
        functions = {f.name: f for f in node.body if isinstance(f, ast.FunctionDef)}
        function = functions.get("__init__")
    if function is None:
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"{name}({fields(node)})" if fields(node) else f"{name}: {bases}" if bases else name
    arguments = copy.deepcopy(function.args)
    places = arguments.posonlyargs or arguments.args
    if places and places[0].arg in ("self", "cls"):
        places.pop(0)
    text = f"{name}({ast.unparse(arguments)})"
    if function is node and node.returns is not None:
        text += f" -> {ast.unparse(node.returns)}"
    return text


def fields(node: ast.ClassDef) -> str:
    """The arguments of a data class or a named tuple; empty for other classes."""
    kinds = [ast.unparse(item) for item in (*node.decorator_list, *node.bases)]
    if not any(kind.startswith(("dataclass", "NamedTuple")) for kind in kinds):
        return ""
    return ", ".join(ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign))


def methods(node: Definition) -> Iterator[ast.FunctionDef]:
    """The public methods and properties that a class defines itself, with a docstring."""
    for item in node.body if isinstance(node, ast.ClassDef) else ():
        named = isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
        if named and ast.get_docstring(item):
            yield item


def in_markdown(docstring: str) -> str:
    """Turn a docstring's marks, sections and entries into Markdown."""
    parts = _SECTION.split(docstring)
    blocks = [marks(parts[0].strip())]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        text = textwrap.dedent(body.strip("\n"))
        lines = text.splitlines()
        entries = [line for line in lines if line and not line.startswith(" ")]
        if title not in ("Returns", "Yields") and all(map(_ENTRY.match, entries)):
            blocks.append(f"*{title}*\n\n" + "\n".join(list_entries(lines)))
        else:
            blocks.append(f"*{title}*: {marks(' '.join(text.split()))}")
    return "\n\n".join(block for block in blocks if block)


def list_entries(lines: list[str]) -> Iterator[str]:
    """The entries of a section as items of a list; an entry's further lines are indented."""
    item = ""
    for line in lines:
        entry = _ENTRY.match(line)
        if entry:
            if item:
                yield item
            item = f"- `{entry[1]}`: {marks(entry[2])}"
        elif line.strip():
            item += f" {marks(line.strip())}"
    if item:
        yield item


def marks(text: str) -> str:
    """Roles and double backticks as Markdown's code; nothing else is taken for a mark."""
    text = _ROLE.sub(r"``\1``", text)
    pieces = re.split(r"(``.*?``|`[^`]*`)", text, flags=re.DOTALL)
    return "".join(
        f"`{piece.strip('`')}`" if number % 2 else re.sub(r"([<*])", r"\\\1", piece)
        for number, piece in enumerate(pieces)
    )


def entry(public: Public) -> str:
    """The paragraph of a class or function."""
    kind = "class " if isinstance(public.node, ast.ClassDef) else ""
    lines = [
        f"### {public.name}",
        f"```text\n{kind}{wrap(signature(public.name, public.node))}\n```",
        in_markdown(ast.get_docstring(public.node) or ""),
    ]
    own = [
        f"- `{signature(method.name, method)}`: "
        + marks(" ".join(ast.get_docstring(method).split("\n\n")[0].split()))
        for method in methods(public.node)
    ]
    if own:
        lines.append("*Methods*\n\n" + "\n".join(own))
    return "\n\n".join(line for line in lines if line)


def wrap(text: str) -> str:
    """Break a long signature at its commas."""
    return textwrap.fill(
        text, 96, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def make() -> str:
    """The whole page."""
    contents, body = [], []
    done: set[ast.AST] = set()
    for module in MODULES:
        members = public_of(module)
        new = [member for member in members if member.node not in done]
        done.update(member.node for member in new)
        anchor = module.replace(".", "")
        contents.append(
            f"- [`{module}`](#{anchor}): "
            + ", ".join(f"[{m.name}](#{m.name.lower()})" for m in members)
        )
        about = (ast.get_docstring(read(module)) or "").split("\n\n")[0]
        body += [f"## {module}", marks(about), *map(entry, new)]
    return "\n\n".join([HEAD.strip(), "\n".join(contents), *body]) + "\n"


def main() -> None:
    """Write the page, or compare it with what would be written."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    args = parser.parse_args()
    page = make()
    if not args.check:
        PAGE.write_text(page, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(
            f"error: {PAGE.relative_to(ROOT)} is not what the docstrings say; run "
            "`python tools/misc/make_api_reference.py`"
        )


if __name__ == "__main__":
    main()
