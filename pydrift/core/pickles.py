"""Pickles without the unpickler: values are made of the few opcodes that plain data has, and nothing is ever called.

pickle's own unpickler and torch's restricted one know opcodes and calls that make room for any size with a few bytes.
They also hash nested tuples, which may never end. Here every value has its bytes in the file, and keys are texts or
numbers. So what passes is safe to give to torch's.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydrift.core.limits import MAX_PICKLE_OPERATIONS

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """Something that the pickle refers to by module and name. It is never looked up."""

    text: str


@dataclass
class Made:
    """What calling a name would make: its arguments, and the state that is set afterwards."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


class UnknownName(ValueError):
    """The pickle refers to something that such a file never does; `name` is module and name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it refers to {name[:120]!a}")
        self.name = name


def read_pickle(data: bytes, known: Callable[[str], bool]) -> Any:
    """The value that `data` pickles, with `Made` in place of objects.

    known  whether a name (module.name) may occur
    UnknownName: another one does. ValueError: the pickle is damaged, or has opcodes, keys or sizes that no plain data
    has.
    """
    machine = _Machine(known)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # checks lengths, makes no objects
            if number == MAX_PICKLE_OPERATIONS:
                raise ValueError(f"it has more than {MAX_PICKLE_OPERATIONS} operations")
            if opcode.name == "STOP":
                break
            machine.do(opcode.name, argument)
        return machine.stack.pop()
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"it is a damaged pickle: {type(error).__name__}") from error


class _Machine:
    def __init__(self, known: Callable[[str], bool]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._known = known

    def do(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINSTRING" | "SHORT_BINSTRING":
                push(argument.encode("latin1"))  # bytes, as Python 2 wrote them
            case _ if name in _VALUES:
                push(argument)
            case _ if name in _CONSTANTS:
                push(_CONSTANTS[name])
            case _ if name in _TUPLES:
                push(tuple(self._take(_TUPLES[name])))
            case "MARK":
                self._marks.append(len(self.stack))
            case "TUPLE":
                push(tuple(self._take_marked()))
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "APPEND" | "APPENDS":
                values = [pop()] if name == "APPEND" else self._take_marked()
                self._last(list).extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = _pairs(self._take(2) if name == "SETITEM" else self._take_marked())
                self._last(dict | Made)
                if isinstance(self.stack[-1], dict):
                    self.stack[-1].update(pairs)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(self._name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                push(self._name(*self._take(2)))
            case "REDUCE" | "NEWOBJ":
                called, arguments = self._take(2)
                push(Made(called.text, arguments))
            case "BINPERSID":
                push(Made("persistent", pop()))
            case "BUILD":
                state = pop()
                self._last(Made).state = state
            case _:
                raise ValueError(f"it has the opcode {name}")

    def _name(self, module: Any, name: Any) -> Name:
        text = f"{module}.{name}"
        if not (isinstance(module, str) and isinstance(name, str) and self._known(text)):
            raise UnknownName(text if len(text) < 1000 else "a long name")
        return Name(text)

    def _last(self, kind: Any) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError("it is not built as plain data is")
        return self.stack[-1]

    def _take(self, count: int) -> list[Any]:
        return self._cut(len(self.stack) - count)

    def _take_marked(self) -> list[Any]:
        return self._cut(self._marks.pop())

    def _cut(self, begin: int) -> list[Any]:
        if begin < 0:
            raise ValueError("it is not built as plain data is")
        taken = self.stack[begin:]
        del self.stack[begin:]
        return taken


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    keys = values[::2]
    if not all(type(key) in (str, bytes, int) for key in keys):
        raise ValueError("a key in it is neither a text nor a number")
    return list(zip(keys, values[1::2], strict=True))
