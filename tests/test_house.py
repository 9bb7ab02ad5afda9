"""The structure of the two packages: imports go one way, and what verifies is not shipped with what serves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"palora_kernels": ROOT / "palora_kernels", "palora": ROOT / "python" / "palora"}


def modules(package: str) -> dict[str, ast.Module]:
    """By dotted name; a package by its own name, for its __init__."""
    folder = PACKAGES[package]
    found = {}
    for path in folder.rglob("*.py"):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules among ``known`` that are imported when this one is; not inside functions, nor for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from imported(node, known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan), those of one module left out."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    trees = modules(package)
    graph = {name: set(imported(tree, set(trees))) - {name} for name, tree in trees.items()}
    assert circles(graph) == []


def test_what_verifies_is_not_imported_by_what_serves() -> None:
    trees = modules("palora_kernels")
    for name, tree in trees.items():
        if not name.startswith("palora_kernels.verify"):
            anywhere = {found for node in ast.walk(tree) for found in imported(ast.Module([node], []), set(trees))}  # type: ignore[list-item]
            assert not [other for other in anywhere if other.startswith("palora_kernels.verify")], name


def test_the_kernels_know_nothing_of_palora() -> None:
    for name, tree in modules("palora_kernels").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "palora", name
                assert not (node.module or "").startswith("palora."), name


# Users pass what torch.nn.functional.conv2d takes, by name; a launcher passes on what a kernel takes.
MANY = {("functional", "conv2d"), ("functional", "conv2d_delta"), ("gemm", "_launch")}


def test_no_function_takes_more_than_eight_parameters() -> None:
    for name, tree in modules("palora_kernels").items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or any("jit" in ast.unparse(d) for d in node.decorator_list):
                continue
            taken = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            taken = [arg for arg in taken if arg not in ("self", "cls")]
            assert len(taken) <= 8 or (name.split(".")[-1], node.name) in MANY, f"{name}.{node.name}"
