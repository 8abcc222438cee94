"""The state of objects that refer to each other, as plain values, and back into objects that are alike.

Each object and each list, dict or set is a node with a number, so that what two others have in common stays so. Only
classes that are named beforehand are taken or made. What belongs to the machine around them (devices, functions, views
of memory) is not taken: the objects that the state is put into have their own. An object of a class that nobody has
thought of is refused, so that nothing is ever left out unseen.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from trapgate.lab.snapshots.errors import CannotTake

#: In place of what belongs to the machine around.
_KEEP = ["keep"]
_MISSING = object()
_CONTAINERS = (list, dict, OrderedDict, set, bytearray, deque, array)


class Kinds:
    """Which classes are state, which are the machine around, and how to make one that cannot begin empty."""

    def __init__(
        self,
        state: Iterable[type],
        around: Iterable[type],
        makers: Mapping[type, Callable[[dict[str, Any]], object]] | None = None,
    ) -> None:
        self.by_name = {_name(kind): kind for kind in state}
        self.around = tuple(around)
        self.makers = dict(makers or {})


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _attributes(thing: object) -> list[str]:
    """Those of the object itself: what it has from its class is nobody's state."""
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*(name for name in slots if hasattr(thing, name)), *getattr(thing, "__dict__", ())]


# -- taking


class _Taker:
    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._numbers: dict[int, int] = {}
        self._alive: list[object] = []
        self.nodes: list[Any] = []

    def value(self, value: Any) -> Any:
        """`value` as a plain one: itself, or a list that begins with what it is."""
        if value is None or isinstance(value, Enum):
            return value if value is None else ["enum", _name(type(value)), value.name]
        kind = type(value)
        if kind in (bool, int, str, bytes):
            return value
        if kind is tuple:
            return ["tuple", [self.value(item) for item in value]]
        if kind is frozenset:
            return ["frozenset", sorted((self.value(item) for item in value), key=repr)]
        known = self._kinds.by_name.get(_name(kind)) is kind
        if known and isinstance(value, tuple):
            return ["named", _name(kind), [self.value(item) for item in value]]
        if known or kind in _CONTAINERS:
            return ["node", self._node(value)]
        if isinstance(value, self._kinds.around) or callable(value):
            return _KEEP
        raise CannotTake(f"one with a {_name(kind)}, of which nobody knows how", "report it as a bug")

    def _node(self, thing: Any) -> int:
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self.nodes)
            self._alive.append(thing)
            self.nodes.append(None)
            self.nodes[number] = self._content(thing)
        return number

    def _content(self, thing: Any) -> list[Any]:
        match thing:
            case bytearray():
                return ["bytearray", bytes(thing)]
            case array():
                return ["array", thing.typecode, thing.tobytes()]
            case dict():
                pairs = [[self.value(key), self.value(item)] for key, item in thing.items()]
                return ["ordered" if isinstance(thing, OrderedDict) else "dict", pairs]
            case set():
                # In an order of their own: nobody may depend on that of a set.
                return ["set", sorted((self.value(item) for item in thing), key=repr)]
            case list() | deque():
                return [type(thing).__name__, [self.value(item) for item in thing]]
        fields = {name: self.value(getattr(thing, name)) for name in _attributes(thing)}
        return ["object", _name(type(thing)), fields]


def take(root: object, kinds: Kinds) -> list[Any]:
    """The state of `root` and of all that it refers to. Raises CannotTake for an object of an unknown class."""
    taker = _Taker(kinds)
    taker.value(root)
    return taker.nodes


# -- putting


class _Putter:
    def __init__(self, nodes: list[Any], kinds: Kinds) -> None:
        self._nodes, self._kinds = nodes, kinds
        self._made: list[Any] = [_MISSING] * len(nodes)
        self._used: set[int] = set()

    def value(self, plain: Any, old: Any) -> Any:
        """The value; `old` is what is in its place now, and stays if it is alike."""
        if not isinstance(plain, list):
            return plain
        match plain:
            case ["keep"]:
                if old is _MISSING:
                    raise CannotTake("one with a part that this machine does not have", "report it as a bug")
                return old
            case ["node", number]:
                return self.node(number, old)
            case ["enum", name, member]:
                return self._kinds.by_name[name][member]  # type: ignore[index]
            case ["tuple", items]:
                return tuple(self._items(items, old))
            case ["frozenset", items]:
                return frozenset(self._items(items, _MISSING))
            case ["named", name, items]:
                return self._kinds.by_name[name](*self._items(items, old))
        raise AssertionError(f"{plain!r:.80} is no value")

    def _items(self, items: list[Any], old: Any) -> list[Any]:
        like = old if isinstance(old, list | tuple) else ()
        return [self.value(item, like[n] if n < len(like) else _MISSING) for n, item in enumerate(items)]

    def node(self, number: int, old: Any) -> Any:
        if self._made[number] is not _MISSING:
            return self._made[number]
        content = self._nodes[number]
        match content:
            case ["object", name, fields]:
                return self._object(number, self._kinds.by_name[name], fields, old)
            case ["bytearray", data]:
                made = self._place(number, bytearray, old)
                made[:] = data
            case ["array", typecode, data]:
                fits = type(old) is array and old.typecode == typecode
                made = self._claim(number, old) if fits else self._claim(number, array(typecode))
                del made[:]
                made.frombytes(data)
            case ["set", items]:
                made = self._place(number, set, old)
                found = self._items(items, _MISSING)
                made.clear()
                made.update(found)
            case [("dict" | "ordered") as name, pairs]:
                made = self._place(number, dict if name == "dict" else OrderedDict, old)
                like = dict(made)
                found_pairs = []
                for key, item in pairs:
                    own = self.value(key, _MISSING)
                    found_pairs.append((own, self.value(item, like.get(own, _MISSING))))
                made.clear()
                made.update(found_pairs)
            case [("list" | "deque") as name, items]:
                made = self._place(number, list if name == "list" else deque, old)
                found = self._items(items, list(made))
                made.clear()
                made.extend(found)
            case _:
                raise AssertionError(f"{content!r:.80} is no node")
        return made

    def _claim(self, number: int, thing: Any) -> Any:
        self._made[number] = thing
        self._used.add(id(thing))
        return thing

    def _place(self, number: int, kind: type, old: Any) -> Any:
        alike = type(old) is kind and id(old) not in self._used
        return self._claim(number, old if alike else kind())

    def _object(self, number: int, kind: type, fields: dict[str, Any], old: Any) -> Any:
        maker = self._kinds.makers.get(kind)
        if maker is not None:
            thing = self._claim(number, maker(fields))
        elif type(old) is kind and id(old) not in self._used:
            thing = self._claim(number, old)
        else:
            thing = self._claim(number, object.__new__(kind))
        own = set(_attributes(thing))
        for name, plain in fields.items():
            before = getattr(thing, name, _MISSING)
            after = self.value(plain, before)
            if after is not before or name not in own:
                setattr(thing, name, after)
        return thing


def put(root: object, nodes: list[Any], kinds: Kinds) -> None:
    """Make `root` what it was when `nodes` were taken of it, or of an object that is alike."""
    putter = _Putter(nodes, kinds)
    putter.node(0, root)
