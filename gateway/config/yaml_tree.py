"""YAML with positions: plain data, and the line and column of each value and key.

YAML 1.2 core schema: only true and false are booleans (`NO` is Norway and `on` is a word), and numbers keep their
decimal text. Duplicate keys, anchors and merges are problems: a policy means what it shows.
"""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

YamlPath = tuple[str | int, ...]
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(slots=True)
class YamlTree:
    """The document and its positions; lines and columns count from 1.

    data: plain data; None if the document is empty or broken
    value_positions: (line, column) of each value, by its path
    key_positions: (line, column) of each key, by the path of its value
    problems: (line, column, message) of each syntax error
    """

    data: Any = None
    value_positions: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)
    key_positions: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)
    problems: list[tuple[int, int, str]] = field(default_factory=list)

    def position(self, path: YamlPath) -> tuple[int, int]:
        """(line, column) of the value at `path`, else of its nearest parent."""
        while path and path not in self.value_positions:
            path = path[:-1]
        return self.value_positions.get(path, (1, 1))


def parse_yaml(text: str) -> YamlTree:
    """Parse one document; syntax errors become problems."""
    tree = YamlTree()
    try:
        loader = _Loader(text)
        try:
            events = yaml.parse(text, Loader=_Loader)
            alias = next((event for event in events if isinstance(event, yaml.AliasEvent)), None)
            if alias is not None:
                message = "anchors and aliases are not supported; write the value out"
                mark = alias.start_mark
                tree.problems.append((mark.line + 1, mark.column + 1, message) if mark else (1, 1, message))
                return tree
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        text_line = "".join(text.split("\n")[line - 1 : line])
        tab = "\t" in text_line[: len(text_line) - len(text_line.lstrip())]
        cause = "tab in indentation; use spaces" if tab else error.problem or error.context
        tree.problems.append((line, column, f"invalid YAML: {cause}"))
        return tree
    except yaml.YAMLError as error:
        tree.problems.append((1, 1, f"invalid YAML: {error}"))
        return tree
    tree.data = _value(node, (), tree) if node is not None else None
    return tree


def _value(node: yaml.Node, path: YamlPath, tree: YamlTree) -> Any:
    tree.value_positions[path] = _position(node)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), tree) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _mapping(node: yaml.MappingNode, path: YamlPath, tree: YamlTree) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            tree.problems.append((*_position(key_node), "key must be plain text"))
            continue
        key = str(key_node.value)
        if key == "<<":
            tree.problems.append((*_position(key_node), "merge keys (<<) are not supported; write the values out"))
        elif key in result:
            first = tree.key_positions[(*path, key)]
            tree.problems.append(
                (*_position(key_node), f"key '{key}' is given twice (first on line {first[0]}); keep one of them")
            )
        else:
            tree.key_positions[(*path, key)] = _position(key_node)
            result[key] = _value(value_node, (*path, key), tree)
    return result


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style:
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return Decimal(text)
    return text


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
