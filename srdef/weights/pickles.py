"""Run the few instructions of pickles that files of tensors consist of, within bounds.

A pickle is a program. `pickle.Unpickler` runs all of it in C: one instruction can reserve gigabytes for
a memo that has one entry, make tuples that take forever to hash, or set attributes on whatever the
program got hold of. Here a pickle can make numbers, strings, lists and dictionaries, and ask for the few
globals that the caller offers. Nothing is hashed but numbers and strings, nothing is compared, no
attribute is set, and the number of instructions is bounded.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from srdef.errors import InputError

# A state_dict takes about 25 instructions for a tensor: enough for ten thousand tensors and an optimizer.
MAX_INSTRUCTIONS = 1_000_000


@dataclass(frozen=True)
class Function:
    """A global that a pickle may call."""

    name: str
    call: Callable[..., Any]


class Stateful:
    """An object that a pickle may give a state."""

    def set_state(self, state: Any) -> None:
        """Take the state, or raise InputError."""
        raise NotImplementedError


class Dictionary(dict[Any, Any], Stateful):
    """Stands for collections.OrderedDict."""

    def set_state(self, state: Any) -> None:
        """Ignore the state: the `_metadata` of a `state_dict` (version numbers of its modules)."""


def make_dictionary(*arguments: Any) -> Dictionary:
    """collections.OrderedDict: empty, or of a list of pairs, as Python 2 wrote it."""
    made = Dictionary()
    for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
        key, value = pair
        _store(made, key, value)
    return made


def integers(values: Any, what: str) -> tuple[int, ...]:
    """A tuple or list of sizes, at most 32 of them and none beyond 62 bits; InputError otherwise."""
    right = isinstance(values, tuple | list) and len(values) <= 32
    if not right or not all(type(n) is int and 0 <= n < 1 << 62 for n in values):
        raise InputError(f"impossible {what}")
    return tuple(values)


def _store(target: dict[Any, Any], key: Any, value: Any) -> None:
    # Small integers only: of large ones, thousands can be found that have one hash.
    if not isinstance(key, str | None) and not (isinstance(key, int) and abs(key) < 1 << 32):
        raise InputError(f"refused: a {type(key).__name__} as the key of a dictionary")
    target[key] = value


# Instructions that only push their argument.
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_UNICODE = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_LITERALS = frozenset((*_NUMBERS, *_STRINGS, *_UNICODE, *_BYTES))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# A set is kept as a list: its elements are not hashed.
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, offered: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]) -> None:
        self.offered = offered
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise InputError("damaged (the pickle takes more than it has made)")
        return self.stack.pop()

    def top(self, kind: type, instruction: str) -> Any:
        value = self.stack[-1] if self.stack else None
        if not isinstance(value, kind):
            raise InputError(f"refused: {instruction} on a {type(value).__name__}")
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise InputError("damaged (the pickle takes more than it has made)")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def run(self, instruction: str, argument: Any) -> None:
        """One instruction, by the name that `pickletools` gives it."""
        push = self.stack.append
        if instruction in _LITERALS:
            push(argument)
        elif instruction in _CONSTANTS:
            push(_CONSTANTS[instruction])
        elif instruction in _EMPTY:
            push(_EMPTY[instruction]())
        elif instruction in _TUPLES:
            push(tuple(reversed([self.pop() for _ in range(_TUPLES[instruction])])))
        elif instruction == "MARK":
            self.marks.append(len(self.stack))
        elif instruction == "TUPLE":
            push(tuple(self.pop_to_mark()))
        elif instruction in ("LIST", "FROZENSET"):
            push(self.pop_to_mark())
        elif instruction in ("DICT", "SETITEMS"):
            self.set_items(self.pop_to_mark(), {} if instruction == "DICT" else None)
        elif instruction == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value], None)
        elif instruction in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [self.pop()] if instruction == "APPEND" else self.pop_to_mark()
            self.top(list, instruction).extend(values)
        elif instruction == "POP":
            if self.marks and self.marks[-1] == len(self.stack):
                self.marks.pop()
            else:
                self.pop()
        elif instruction == "POP_MARK":
            self.pop_to_mark()
        elif instruction in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if instruction == "MEMOIZE" else argument] = self.top(
                object, instruction
            )
        elif instruction in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise InputError("damaged (the pickle takes more than it has made)")
            push(self.memo[argument])
        else:
            self.run_global(instruction, argument)

    def set_items(self, items: list[Any], made: dict[Any, Any] | None) -> None:
        target = self.top(dict, "SETITEMS") if made is None else made
        for key, value in zip(items[::2], items[1::2], strict=True):
            _store(target, key, value)
        if made is not None:
            self.stack.append(made)

    def run_global(self, instruction: str, argument: Any) -> None:
        """The instructions that fetch a global, call it, or give a state to what it made."""
        push = self.stack.append
        if instruction == "GLOBAL":
            push(self.find(*argument.split(" ", 1)))
        elif instruction == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            push(self.find(module, name))
        elif instruction in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
            if not isinstance(function, Function) or not isinstance(arguments, tuple):
                raise InputError(f"refused: it calls a {type(function).__name__}")
            push(function.call(*arguments))
        elif instruction == "BUILD":
            state = self.pop()
            target = self.top(object, instruction)
            if not isinstance(target, Stateful):
                raise InputError(f"refused: it gives a state to a {type(target).__name__}")
            target.set_state(state)
        elif instruction == "BINPERSID":
            push(self.persistent(self.pop()))
        elif instruction not in ("PROTO", "FRAME"):
            raise InputError(f"refused: the instruction {instruction}, which no file of tensors needs")

    def find(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.offered:
            raise InputError(
                f"refused: it asks for the global {module!s:.80}.{name!s:.80}, and only tensors are read"
            )
        return self.offered[module, name]


def _no_persistent_ids(_: Any) -> Any:
    raise InputError("refused: a persistent id where there can be none")


def load(
    file: BinaryIO,
    offered: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] = _no_persistent_ids,
) -> Any:
    """What the pickle at the position of `file` describes; the position is then behind it.

    Parameters
    ----------
    file : binary file
        In memory.
    offered : dict
        The globals that it may ask for, by module and name; a `Function` is what it may call.
    persistent : function
        Gives what a persistent id stands for.

    Raises
    ------
    InputError
        If the pickle asks for another global, for anything but containers, numbers and strings, or is
        damaged or too long.
    """
    machine = _Machine(offered, persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MAX_INSTRUCTIONS:
            raise InputError(f"refused: a pickle of more than {MAX_INSTRUCTIONS} instructions")
        if opcode.name == "STOP":
            return machine.pop()
        machine.run(opcode.name, argument)
    raise InputError("damaged (the pickle has no end)")
