"""The configurations that come with srdef: `from srdef.configs import quickstart`.

In a checkout they are the files of the folder `configs` beside this package, where Python is sent to look
for them. In an installed srdef that folder is a package in the place of this file.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

__path__ = [str(Path(__file__).parents[1] / "configs")]


def __getattr__(name: str) -> ModuleType:
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # something that a configuration imports
            raise
        raise AttributeError(name) from None
