"""Which names of the TensorRT bindings a source file uses, of which class, and behind what guard.

Found from the syntax tree. What a variable holds follows from how it was made (`trt.Runtime(...)`,
or what the recorded signature of a method says that it gives); where that is not to be seen, for a
parameter or an attribute of self, from its name (`NAMES`): our files keep to those names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULE = "trt"
NAMES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "layer": "ILayer",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}


@dataclass(frozen=True, kw_only=True)
class Use:
    """`owner` is a class of the bindings or "trt", the module itself."""

    owner: str
    name: str
    guarded: bool
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.owner}.{self.name}"


def uses(path: Path, listing: Mapping[str, Any]) -> list[Use]:
    """All uses in a file; `listing` is that of the version whose signatures count."""
    found = []
    for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
        found += Scope(function, listing, path.name).uses()
    return found


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Outermost functions, methods too, each with all that is inside it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from functions(node)


class Scope:
    """One function: what its variables hold, what is guarded, what is used."""

    def __init__(self, tree: ast.AST, listing: Mapping[str, Any], file: str) -> None:
        self._tree = tree
        self._classes = listing["classes"]
        self._file = file
        self._held: dict[str, str] = {}  # variable -> class; "type C" for the class itself
        for _ in range(2):  # a variable may be made from one that is made further down
            for node in ast.walk(tree):
                self._assign(node)
        self._guards = set(self._guarded())

    def uses(self) -> list[Use]:
        return list(self._uses())

    def _uses(self) -> Iterator[Use]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute):
                owner, name = self._owner(node.value), node.attr
            elif asked := asks(node):
                value, name, default = asked
                owner = self._owner(value)
                if default or owner is None:
                    continue
            else:
                continue
            if owner is not None and not name.startswith("__"):
                guarded = (owner, name) in self._guards
                where = f"{self._file}:{node.lineno}"
                yield Use(owner=owner, name=name, guarded=guarded, where=where)

    def _guarded(self) -> Iterator[tuple[str, str]]:
        """What hasattr, or getattr with a default, asks for by name."""
        for node in ast.walk(self._tree):
            if asked := asks(node):
                value, name, default = asked
                owner = self._owner(value)
                if default and owner is not None:
                    yield owner, name

    def _assign(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            self._hold(node.targets[0], self._class(node.value))
        elif isinstance(node, ast.NamedExpr):
            self._hold(node.target, self._class(node.value))
        elif isinstance(node, ast.For | ast.comprehension):
            pass

    def _hold(self, target: ast.AST, kind: str | None) -> None:
        key = spelt(target)
        if key is not None and kind is not None:
            self._held[key] = kind

    def _owner(self, node: ast.AST) -> str | None:
        """The class (or module) in which an attribute of this expression has to be."""
        kind = self._class(node)
        return kind.removeprefix("type ") if kind is not None else None

    def _class(self, node: ast.AST) -> str | None:
        key = spelt(node)
        if key is not None:
            if key == MODULE:
                return MODULE
            if key in self._held:
                return self._held[key]
            bare = key.removeprefix("self.").lstrip("_")
            if bare in NAMES:
                return NAMES[bare]
        if isinstance(node, ast.Attribute):
            owner = self._class(node.value)
            if owner == MODULE:
                return f"type {node.attr}" if node.attr[:1].isupper() else None
            if owner is not None:
                return self._classes.get(owner.removeprefix("type "), {}).get(node.attr)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                called = self._class(node.func)
                if called is not None:
                    return called.removeprefix("type ")
            return None
        return None


def asks(node: ast.AST) -> tuple[ast.AST, str, bool] | None:
    """(object, attribute, whether it may be missing) of hasattr or getattr with a literal name."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    if node.func.id not in ("hasattr", "getattr") or len(node.args) < 2:
        return None
    name = node.args[1]
    names = [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]
    for entry in names:
        if isinstance(entry, ast.Constant) and isinstance(entry.value, str):
            return node.args[0], entry.value, node.func.id == "hasattr" or len(node.args) == 3
    return None


def spelt(node: ast.AST) -> str | None:
    """ "x" or "self.x"."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and spelt(node.value) == "self":
        return f"self.{node.attr}"
    return None


def missing(found: list[Use], listing: Mapping[str, Any]) -> list[str]:
    """Uses without a guard of what a version has not. Raises KeyError for an unrecorded class."""
    faults = []
    for use in found:
        if use.owner == MODULE:
            there = use.name in listing["module"]
        elif use.owner not in listing["module"]:
            there = False  # the class itself is asked for, or reported, elsewhere
        else:
            there = use.name in listing["classes"][use.owner]
        if not there and not use.guarded:
            faults.append(str(use))
    return faults
