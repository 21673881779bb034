"""timm without torchvision, of which there is no build for every machine: networks only."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class _Empty(types.ModuleType):
    """A module in which every capitalised name is a class and every other a module."""

    __path__: list[str] = []  # noqa: RUF012
    __file__ = "empty"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # The members of torchvision.transforms.InterpolationMode, which timm puts into a table.
        modes = {mode: mode for mode in ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")}
        return type(name, (), modes) if name[0].isupper() else _Empty(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(_Finder())
import timm  # noqa: E402

__all__ = ["timm"]
