"""Objects, arrays and sets: subset, JSON patch, paths of a graph, old casts; and printing, which has no reader here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from skep_policy.builtins.values import (
    LimitError,
    Pairs,
    Set,
    UndefinedError,
    Value,
    a_collection,
    a_string,
    an_array,
    an_object,
    equal,
    items,
    object_of,
    rank,
    set_of,
)

STEPS_MAX: Final = 5_000
"""Comparisons, operations, edges: what one call may take of them."""

NUMBER, STRING, ARRAY, OBJECT, SET = 2, 3, 4, 5, 6


def subset(whole: Value, part: Value) -> bool:
    """Is `part` in `whole`: members of an object at any depth, elements of a set, a run of an array."""
    ranks = rank(whole), rank(part)
    if ranks == (ARRAY, SET):
        return all(_has(whole, value) for value in part) and bool(whole)
    if ranks[0] != ranks[1] or ranks[0] < ARRAY:
        raise UndefinedError("object.subset compares objects, sets or arrays")
    return _within(whole, part)


def _within(whole: Value, part: Value) -> bool:
    kind = rank(whole)
    if kind != rank(part) or kind < ARRAY:
        return equal(whole, part)
    if kind == OBJECT:
        there = items(whole)
        return all(any(equal(k, key) and _within(v, value) for k, v in there) for key, value in items(part))
    if kind == SET:
        return all(_has(whole, value) for value in part)
    if len(whole) * max(len(part), 1) > STEPS_MAX:
        raise LimitError("the arrays are too long")
    runs = range(len(whole) - len(part) + 1)
    return any(all(map(equal, whole[at : at + len(part)], part)) for at in runs)


def _has(values: list[Value], wanted: Value) -> bool:
    return any(equal(value, wanted) for value in values)


# -- JSON patch ----------------------------------------------------------------------------------------------------


class _Gone:
    """What stands where the whole document was removed."""


def patch(document: Value, operations: Value) -> Value:
    """RFC 6902, on copies; paths are texts or arrays of keys."""
    if len(an_array(operations)) > STEPS_MAX:
        raise LimitError("too many operations")
    for operation in operations:
        document = _operated(document, an_object(operation))
    if document is _Gone:
        raise UndefinedError("nothing is left")
    return document


def _operated(document: Value, operation: dict[str, Value]) -> Value:
    name, path = a_string(operation["op"]), _path(operation["path"])
    if name == "add":
        return _added(document, path, operation["value"])
    if name == "remove":
        return _removed(document, path)
    if name == "replace":
        return _added(_removed(document, path), path, operation["value"])
    if name in ("move", "copy"):
        origin = _path(operation["from"])
        value = _at(document, origin)
        return _added(_removed(document, origin) if name == "move" else document, path, value)
    if name == "test" and equal(_at(document, path), operation["value"]):
        return document
    raise UndefinedError(f"cannot {name}")


def _path(value: Value) -> list[Value]:
    if isinstance(value, str):
        parts = value.lstrip("/").split("/") if value else []
        return [part.replace("~1", "/").replace("~0", "~") for part in parts]
    return an_array(value)


def _at(document: Value, path: list[Value]) -> Value:
    for key in path:
        document = _member(document, key)
    if document is _Gone:
        raise UndefinedError("nothing is there")
    return document


def _member(document: Value, key: Value) -> Value:
    kind = rank(document) if document is not _Gone else 0
    if kind == OBJECT:
        return next(v for k, v in _found(items(document), key))
    if kind == SET and _has(document, key):
        return key
    if kind == ARRAY:
        return document[_index(key, len(document) - 1)]
    raise UndefinedError("nothing is there")


def _found(pairs: list[tuple[Value, Value]], key: Value) -> list[tuple[Value, Value]]:
    found = [pair for pair in pairs if equal(pair[0], key)]
    if not found:
        raise UndefinedError("nothing is there")
    return found


def _index(key: Value, last: int, end: int | None = None) -> int:
    """A place in an array; `end` is where `-` points to, if it may."""
    if isinstance(key, str):
        if key == "-" and end is not None:
            return end
        if not key.isascii() or not key.isdigit() or (len(key) > 1 and key[0] == "0"):
            raise UndefinedError("no index")
        key = int(key)
    if rank(key) != NUMBER or not 0 <= key <= last or key != int(key):
        raise UndefinedError("no such index")
    return int(key)


def _changed(document: Value, path: list[Value], change: Callable[[Value, Value], Value]) -> Value:
    """`document` with `change(parent, key)` in the place of the parent of what `path` names."""
    if len(path) == 1:
        return change(document, path[0])
    key, inner = path[0], _changed(_member(document, path[0]), path[1:], change)
    kind = rank(document)
    if kind == ARRAY:
        at = _index(key, len(document) - 1)
        return [*document[:at], inner, *document[at + 1 :]]
    if kind == SET:
        return set_of([value for value in document if not equal(value, key)] + [inner])
    return object_of([(k, inner if equal(k, key) else v) for k, v in items(document)])


def _added(document: Value, path: list[Value], value: Value) -> Value:
    def change(parent: Value, key: Value) -> Value:
        kind = rank(parent) if parent is not _Gone else 0
        if kind == OBJECT:
            return object_of([(k, v) for k, v in items(parent) if not equal(k, key)] + [(key, value)])
        if kind == ARRAY:
            at = _index(key, len(parent), len(parent))
            return [*parent[:at], value, *parent[at:]]
        if kind == SET and equal(key, value):
            return set_of([*parent, value])
        raise UndefinedError("nothing can stand there")

    return _changed(document, path, change) if path else value


def _removed(document: Value, path: list[Value]) -> Value:
    def change(parent: Value, key: Value) -> Value:
        kind = rank(parent) if parent is not _Gone else 0
        if kind == OBJECT:
            _found(items(parent), key)
            return object_of([(k, v) for k, v in items(parent) if not equal(k, key)])
        if kind == ARRAY:
            at = _index(key, len(parent) - 1)
            return parent[:at] + parent[at + 1 :]
        if kind == SET and _has(parent, key):
            return set_of([value for value in parent if not equal(value, key)])
        raise UndefinedError("nothing is there")

    return _changed(document, path, change) if path else _Gone


# -- graphs --------------------------------------------------------------------------------------------------------


def reachable_paths(graph: Value, initial: Value) -> Set:
    """Every way from the initial nodes to an end, or to a node that is on it already."""
    edges = dict(items(graph)) if isinstance(graph, dict) else {}
    if rank(graph) != OBJECT or isinstance(graph, Pairs):
        raise UndefinedError("a graph is an object whose keys are strings")
    paths: list[list[Value]] = []
    waiting: list[list[Value]] = []
    for node in a_collection(initial):
        if isinstance(node, str) and node in edges:
            following = _vertices(edges[node])
            there = [other for other in following if isinstance(other, str) and other in edges]
            waiting += [
                [node, other] for other in there
            ]  # a node's edge to itself counts here, as it does in OPA
            paths += [[node]] * (len(there) < len(following) or not following)
    while waiting:
        if len(paths) + len(waiting) > STEPS_MAX:
            raise LimitError("the graph has too many paths")
        path = waiting.pop()
        following = _vertices(edges[path[-1]])
        if not following:
            paths.append(path)
        for node in following:
            if isinstance(node, str) and node in edges and node not in path:
                waiting.append([*path, node])
            else:
                paths.append(path)
    return set_of(list(paths))


def _vertices(value: Value) -> list[Value]:
    return list(value) if isinstance(value, list) and not isinstance(value, Pairs) else []


# -- casts, and prints ---------------------------------------------------------------------------------------------


def _cast(kind: int) -> Callable[[Value], Value]:
    def cast(value: Value) -> Value:
        if rank(value) != kind:
            raise UndefinedError("another type")
        return value

    return cast


def cast_array(value: Value) -> list[Value]:
    return list(a_collection(value))


def cast_set(value: Value) -> Set:
    return set_of(list(a_collection(value)))


def printed(_: Value) -> bool:
    """What a policy prints has no reader."""
    return True


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "cast_array": cast_array,
    "cast_boolean": _cast(1),
    "cast_null": _cast(0),
    "cast_object": _cast(OBJECT),
    "cast_set": cast_set,
    "cast_string": _cast(STRING),
    "graph.reachable_paths": reachable_paths,
    "internal.print": printed,
    "json.patch": patch,
    "object.subset": subset,
    "print": printed,
    "trace": printed,
}
