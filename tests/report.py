"""`make report`: the tail of the house. Medians look fine everywhere; what counts is the longest and the hidden."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = 10


def functions(path: Path, tree: ast.AST) -> list[tuple[int, str]]:
    """(lines, place) of every function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(node.end_lineno - node.lineno + 1, f"{path}:{node.lineno} {node.name}") for node in found]


def swallowed(path: Path, tree: ast.AST) -> list[str]:
    """Handlers of everything that do not raise again."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    return [
        f"{path}:{node.lineno}"
        for node in handlers
        if (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]


def hidden_imports(path: Path, tree: ast.AST) -> list[str]:
    """Imports inside functions."""
    outer = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [
        f"{path}:{inner.lineno}"
        for node in outer
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
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


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that reach themselves."""

    def reaches(start: str) -> bool:
        seen, left = set(), list(graph[start])
        while left:
            name = left.pop()
            if name == start:
                return True
            if name in graph and name not in seen:
                seen.add(name)
                left += graph[name]
        return False

    return [name for name in graph if reaches(name)]


def main() -> None:
    """Print the tables."""
    files = sorted(
        path.relative_to(ROOT) for folder in ("gateway", "loadtest") for path in (ROOT / folder).rglob("*.py")
    )
    trees = {path: ast.parse((ROOT / path).read_text()) for path in files}
    graph = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): imports(path, tree)
        for path, tree in trees.items()
    }
    lines = sorted(((len((ROOT / path).read_text().splitlines()), str(path)) for path in files), reverse=True)
    lengths = sorted((one for path, tree in trees.items() for one in functions(path, tree)), reverse=True)
    tables = {
        "Longest files (lines)": lines[:SHOWN],
        "Longest functions (lines)": lengths[:SHOWN],
        "Import cycles": cycles(graph),
        "Handlers that swallow everything (two places are right: server, supervisor)": [
            one for path, tree in trees.items() for one in swallowed(path, tree)
        ],
        "Imports inside functions": [one for path, tree in trees.items() for one in hidden_imports(path, tree)],
    }
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows or ["none"]:
            print("  ", *(row if isinstance(row, tuple) else (row,)))


if __name__ == "__main__":
    main()
