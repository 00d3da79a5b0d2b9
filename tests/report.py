"""`make report`: the tail of the code base. Medians look fine everywhere; what counts is the longest and the hidden."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = 10
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
Row = tuple[int, str]


def functions(path: Path, tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(place, node) of every function."""
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            yield f"{path}:{node.lineno} {node.name}", node


def length(node: ast.stmt) -> int:
    """Lines of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Depth of nested blocks."""
    inner = [
        nesting(child, depth + isinstance(child, _BLOCKS) - _is_elif(node, child))
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, _FUNCTIONS)
    ]
    return max([depth, *inner])


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters without self and cls."""
    arguments = node.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields of a struct, and attributes that its methods set on self."""
    fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    return fields | {one.attr for one in _stores(node) if isinstance(one.value, ast.Name) and one.value.id == "self"}


def _stores(tree: ast.AST) -> Iterator[ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node


def mutable_structs(trees: Mapping[Path, ast.AST]) -> dict[str, set[str]]:
    """Struct -> fields of every class with declared fields that is not frozen."""
    found = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and attributes(node) and "frozen" not in ast.dump(node)[:4000]:
                found[node.name] = attributes(node)
    return found


def writers(trees: Mapping[Path, ast.AST]) -> list[Row]:
    """(files, struct) of mutable structs whose fields are set from outside of their own methods, by a name of theirs.

    Fields that several structs share are not attributed to any of them.
    """
    structs = mutable_structs(trees)
    owners: dict[str, set[str]] = defaultdict(set)
    for struct, fields in structs.items():
        for field in fields:
            owners[field].add(struct)
    files: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        for store in _stores(tree):
            if not (isinstance(store.value, ast.Name) and store.value.id == "self") and len(owners[store.attr]) == 1:
                files[next(iter(owners[store.attr]))].add(str(path))
    return sorted(
        ((len(paths), f"{struct}: {', '.join(sorted(paths))}") for struct, paths in files.items()), reverse=True
    )


def imported_names(tree: ast.AST) -> int:
    """Names that a file imports."""
    return sum(len(node.names) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def duplicate_names(trees: Mapping[Path, ast.AST]) -> list[str]:
    """Class names that several files define."""
    places = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]


def swallowed(path: Path, tree: ast.AST) -> list[str]:
    """Handlers of every exception that do not raise again."""
    return [
        f"{path}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]


def hidden_imports(path: Path, tree: ast.AST) -> list[str]:
    """Imports inside functions."""
    return [
        f"{path}:{inner.lineno} {outer.name}"
        for _, outer in functions(path, tree)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]


def imports(path: Path, tree: ast.AST) -> set[str]:
    """The modules of this package that a module imports, as dotted names."""
    package = list(path.with_suffix("").parts)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {".".join([*target, name.name]) for name in node.names}
            if node.module:
                found.add(".".join(target))
    return found


def cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that reach themselves."""

    def reaches(start: str) -> bool:
        seen: set[str] = set()
        left = list(graph[start])
        while left:
            name = left.pop()
            if name == start:
                return True
            if name in graph and name not in seen:
                seen.add(name)
                left += graph[name]
        return False

    return [name for name in graph if reaches(name)]


def _most(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, reverse=True)[:SHOWN]


def main() -> None:
    """Print the tables."""
    files = sorted(path.relative_to(ROOT) for top in ("gateway", "loadtest") for path in (ROOT / top).rglob("*.py"))
    trees = {path: ast.parse((ROOT / path).read_text()) for path in files}
    every = [one for path, tree in trees.items() for one in functions(path, tree)]
    classes = [
        (f"{path}:{node.lineno} {node.name}", node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    product = {path: tree for path, tree in trees.items() if path.parts[0] == "gateway"}
    graph = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): imports(path, tree)
        for path, tree in trees.items()
    }
    tables: dict[str, list[Row] | list[str]] = {
        "Longest files (lines)": _most((len((ROOT / path).read_text().splitlines()), str(path)) for path in files),
        "Longest functions (lines)": _most((length(node), place) for place, node in every),
        "Deepest nesting (blocks)": _most((nesting(node), place) for place, node in every),
        "Most parameters": _most((parameters(node), place) for place, node in every),
        "Most attributes per class": _most((len(attributes(node)), place) for place, node in classes),
        "Writers per mutable struct (files that set its fields from outside)": writers(product)[:SHOWN],
        "Most imported names": _most((imported_names(tree), str(path)) for path, tree in trees.items()),
        "Duplicate class names": duplicate_names(product),
        "Import cycles": cycles(graph),
        "Handlers that swallow everything (two are intended: http/server.py, services/supervisor.py)": [
            one for path, tree in trees.items() for one in swallowed(path, tree)
        ],
        "Imports inside functions": [one for path, tree in trees.items() for one in hidden_imports(path, tree)],
    }
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows or ["none"]:
            print("  ", *(row if isinstance(row, tuple) else (row,)))
    lines = Counter({str(path): len((ROOT / path).read_text().splitlines()) for path in files})
    print(f"\n{len(files)} files, {lines.total()} lines, {len(every)} functions")


if __name__ == "__main__":
    main()
