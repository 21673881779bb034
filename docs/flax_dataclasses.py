"""Shows the API reference that `flax.struct.dataclass` makes dataclasses (an extension of griffe)."""

from typing import Any

import griffe


class _Standard(griffe.ExprName):
    """A name of the standard library's module `dataclasses`."""

    @property
    def canonical_path(self) -> str:
        return f"dataclasses.{self.name}"


class FlaxDataclasses(griffe.Extension):
    """Before griffe looks for dataclasses, calls those of flax by the standard library's name."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        for decorator in cls.decorators:
            if str(decorator.value).endswith("struct.dataclass"):
                decorator.value = _Standard("dataclass")

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function).endswith("struct.field"):
            attr.value.function = _Standard("field")
