"""Digests of Python values that are the same in every process.

Arrays and tensors count by their numbers. Classes and functions count by name and by
the code that is loaded (its bytecode, with what it refers to: globals, closures, base
classes), because the file they came from may have been edited since. Code of installed
packages counts by version. Whatever has no such description is refused: a cache that
misses costs time, one that hits wrongly lies.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["UnstableValueError", "fingerprint"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# What Python writes into a class: where it stands and what is told about it.
_BOOKKEEPING = {
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__qualname__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
}
_CODE = (
    "co_code",
    "co_exceptiontable",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_flags",
    "co_consts",
)


class UnstableValueError(ValueError):
    """A value has no description that is the same in every process."""


def fingerprint(value: Any) -> str:
    """Hexadecimal SHA-256 of a value, the same in every process.

    Parameters
    ----------
    value : object

    Returns
    -------
    digest : str

    Raises
    ------
    UnstableValueError
        If there is none: locks, open files, code that imports what is not loaded.
    """
    try:
        return _Digest().of(value).hex()
    except UnstableValueError:
        raise
    except Exception as error:
        # Foreign code (__reduce__, descriptors) may raise anything.
        raise UnstableValueError(
            f"{type(value).__name__} ({type(error).__name__}: {error})"
        ) from error


class _Digest:
    """Digests within one walk, which meets each class and function once."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}
        self._open: list[int] = []

    def of(self, value: Any) -> bytes:
        if id(value) in self._open:
            return _joined("above", str(self._open.index(id(value))).encode())
        self._open.append(id(value))
        try:
            return self._of(value)
        finally:
            self._open.pop()

    def _of(self, value: Any) -> bytes:
        kind = type(value)
        if kind in _PLAIN:
            return _joined(kind.__name__, repr(value).encode())
        if kind in (list, tuple):
            return _joined(kind.__name__, *map(self.of, value))
        if kind is dict:
            pairs = (self.of(part) for pair in value.items() for part in pair)
            return _joined("dict", *pairs)
        if kind in (set, frozenset):
            return _joined(kind.__name__, *sorted(map(self.of, value)))
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if kind is np.ndarray:
            return self._array(value)
        if isinstance(value, type | types.FunctionType | types.ModuleType):
            return self._named(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        return self._wrapped(value) or self._reduced(value)

    # Numbers -------------------------------------------------------------------------

    def _tensor(self, tensor: torch.Tensor) -> bytes:
        plain = tensor.detach().cpu().contiguous()
        # bfloat16 has no NumPy form; bytes always do.
        numbers = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        told = (str(tensor.dtype), tuple(tensor.shape), bool(tensor.requires_grad))
        return _joined(type(tensor).__name__, self.of(told), numbers)

    def _array(self, array: Any) -> bytes:
        if array.dtype.hasobject:
            return _joined("objects", self.of(array.shape), self.of(array.tolist()))
        told = (array.dtype.str, str(array.dtype.descr), array.shape)
        return _joined("ndarray", self.of(told), array.tobytes())

    # Classes, functions, modules -----------------------------------------------------

    def _named(self, value: Any) -> bytes:
        name = _full_name(value)
        version = _installed_version(name.partition(":")[0])
        if version is not None and "<locals>" not in name:
            return _joined("installed", name.encode(), version.encode())
        if id(value) in self._met:
            return _joined("met", str(self._met[id(value)][0]).encode())
        # The value itself is kept, so that its id stays its own.
        self._met[id(value)] = (len(self._met), value)
        if isinstance(value, types.ModuleType):
            # Code that only passes the module on; what it takes from it is in _globals.
            return _joined("module", name.encode())
        if isinstance(value, type):
            return _joined("class", name.encode(), *self._class(value))
        return _joined("function", name.encode(), *self._function(value, version))

    def _class(self, cls: type) -> Iterator[bytes]:
        yield self.of(type(cls))
        yield self.of(cls.__bases__)
        for name, value in sorted(vars(cls).items()):
            if name not in _BOOKKEEPING:
                yield self.of(name)
                yield self.of(value)

    def _function(
        self, function: types.FunctionType, version: str | None
    ) -> Iterator[bytes]:
        yield self.of(function.__code__)
        yield self.of((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            yield self.of(_content(cell))
        yield self.of(dict(sorted(vars(function).items())))
        if version is not None:
            yield self.of(version)
            return
        for name, value in sorted(_globals(function).items()):
            yield self.of(name)
            yield self.of(value)

    def _code(self, code: types.CodeType) -> bytes:
        return _joined("code", *(self.of(getattr(code, name)) for name in _CODE))

    # Objects -------------------------------------------------------------------------

    def _wrapped(self, value: Any) -> bytes | None:
        """Digest of what wraps functions and cannot be pickled; None for the rest."""
        if isinstance(value, property):
            parts = (value.fget, value.fset, value.fdel)
            return _joined("property", *map(self.of, parts))
        if isinstance(value, staticmethod | classmethod):
            return _joined(type(value).__name__, self.of(value.__func__))
        if isinstance(value, functools.cached_property):
            return _joined("cached_property", self.of(value.func))
        if isinstance(value, types.MethodType):
            return _joined("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, types.MappingProxyType):
            return _joined("mappingproxy", self.of(dict(value)))
        return None

    def _reduced(self, value: Any) -> bytes:
        """Digest of the parts that pickle would write."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except TypeError as error:
            raise UnstableValueError(_told(value)) from error
        if isinstance(reduced, str):
            return _joined("name", *self._by_name(value, reduced))
        function, arguments, *rest = reduced
        state, items, pairs = [*rest, None, None, None][:3]
        parts = (
            function,
            arguments,
            state,
            None if items is None else list(items),
            None if pairs is None else [tuple(pair) for pair in pairs],
        )
        return _joined("object", self.of(type(value)), *map(self.of, parts))

    def _by_name(self, value: Any, name: str) -> Iterator[bytes]:
        """Where an object of an installed package is found, and the version."""
        known = getattr(value, "__module__", None)
        places = [known] if known else sorted(sys.modules, key=lambda m: (len(m), m))
        for place in places:
            version = _installed_version(place)
            if version is not None and _found_in(place, name) is value:
                yield from (part.encode() for part in (place, name, version))
                return
        raise UnstableValueError(_told(value))


def _joined(tag: str, *parts: bytes) -> bytes:
    """Digest of a tag and parts, each with its length so that none runs over."""
    whole = hashlib.sha256()
    for part in (tag.encode(), *parts):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _told(value: Any) -> str:
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


def _found_in(module: str, name: str) -> Any:
    """Object of a dotted name, without waking modules that load lazily."""
    first, *others = name.split(".")
    found = vars(sys.modules.get(module) or object).get(first)
    for part in others:
        found = getattr(found, part, None)
    return found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "an empty cell"


def _full_name(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return f"{value.__name__}:"
    return f"{value.__module__}:{value.__qualname__}"


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Globals that a function reads, by name, and what it takes from modules."""
    found: dict[str, Any] = {}
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname == "IMPORT_NAME" and not _installed_version(name):
                raise UnstableValueError(f"code that imports {name!r} in a function")
            if instruction.opname == "LOAD_GLOBAL" and name in function.__globals__:
                value = function.__globals__[name]
                found.update(_taken(name, value, set(code.co_names)))
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _taken(name: str, value: Any, attributes: set[str]) -> Iterator[tuple[str, Any]]:
    """A global; of the user's own modules the attributes that the code names."""
    yield name, value
    if isinstance(value, types.ModuleType) and not _installed_version(value.__name__):
        for attribute in sorted(attributes & set(vars(value))):
            # Each name once along a path: modules may hold each other.
            inner = getattr(value, attribute)
            yield from _taken(f"{name}.{attribute}", inner, attributes - {attribute})


def _installed_version(module: str) -> str | None:
    """Version of the package that a module belongs to; None for the user's own code."""
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return "own"  # The caller knows its version.
    package = sys.modules.get(top)
    if package is None:
        return None
    return _version(top, getattr(package, "__file__", None))


@functools.cache
def _version(top: str, file: str | None) -> str | None:
    python = f"python {sys.version_info[0]}.{sys.version_info[1]}"
    if file is None:
        return python if top in sys.builtin_module_names else None
    parents = Path(file).resolve().parents
    if {"site-packages", "dist-packages"} & {folder.name for folder in parents}:
        version = getattr(sys.modules[top], "__version__", None)
        return None if version is None else str(version)
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    return python if standard in parents else None
