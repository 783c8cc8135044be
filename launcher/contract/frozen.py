"""Frozen dataclasses that are quick to define.

`dataclasses.dataclass` writes and compiles six methods for each class, which takes half a millisecond; a command
defines a hundred classes before it does anything. Here classes share their methods. Everything else is as there:
`fields`, `replace`, `asdict`, equality, hash, text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:
    import dataclasses
    from dataclasses import MISSING, FrozenInstanceError

    def dataclass(*, frozen):
        """Return a decorator that makes a class a dataclass whose objects do not change."""
        return _frozen if frozen else dataclasses.dataclass

    def replace(value, **changes):
        """Return a copy with other values of some fields, as `dataclasses.replace` does, five times as fast."""
        names = type(value).__dict__.get("__copied__")
        if names is None or not names.issuperset(changes):
            return dataclasses.replace(value, **changes)
        new, held = object.__new__(type(value)), value.__dict__
        new.__dict__.update({name: held[name] for name in names})
        new.__dict__.update(changes)
        return new

    def _frozen(cls):
        # The standard library refuses to mix frozen and other classes in one line of inheritance.
        inherited = any(getattr(base, "__dataclass_params__", None) for base in cls.__bases__)
        dataclasses.dataclass(init=False, repr=False, eq=False, frozen=inherited)(cls)
        cls.__dataclass_params__.frozen = True
        fields = dataclasses.fields(cls)
        cls.__shown__ = tuple(field.name for field in fields if field.repr)
        cls.__compared__ = tuple(field.name for field in fields if field.compare)
        cls.__hashed__ = tuple(field.name for field in fields if (field.compare if field.hash is None else field.hash))
        if "__init__" not in cls.__dict__ and not hasattr(cls, "__post_init__") and all(field.init for field in fields):
            cls.__copied__ = frozenset(field.name for field in fields)
        own = {"__init__": _init(cls), "__repr__": _repr, "__eq__": _eq, "__hash__": _hash}
        for name, method in {**own, "__setattr__": _setattr, "__delattr__": _delattr}.items():
            if cls.__dict__.get(name) is None:
                setattr(cls, name, method)
        return cls

    def _init(cls):
        defaults = [(field.name, field.default, field.default_factory) for field in dataclasses.fields(cls)]
        names = tuple(name for name, _, _ in defaults)
        if names != cls.__match_args__:
            raise TypeError(f"{cls.__qualname__} has a field that is not a positional argument")
        post_init = getattr(cls, "__post_init__", None)
        known, count = frozenset(names), len(names)

        def __init__(self, *values, **named):  # noqa: N807 - it becomes the class's method
            held = self.__dict__
            held.update(zip(names, values))  # noqa: B905 - Python 3.10, and the lengths are compared below
            if len(values) > count or not known.issuperset(named) or (values and not held.keys().isdisjoint(named)):
                raise TypeError(f"{cls.__qualname__}() takes {', '.join(names)}; each once")
            held.update(named)
            for name, default, factory in defaults if len(held) < count else ():
                if name not in held:
                    if default is MISSING and factory is MISSING:
                        raise TypeError(f"{cls.__qualname__}() lacks {name!r}")
                    held[name] = factory() if default is MISSING else default
            if post_init is not None:
                post_init(self)

        return __init__

    def _values(value, names) -> tuple[Any, ...]:
        return tuple([value.__dict__[name] for name in names])

    def _repr(self):
        values = [f"{name}={self.__dict__[name]!r}" for name in self.__shown__]
        return f"{type(self).__qualname__}({', '.join(values)})"

    def _eq(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return _values(self, self.__compared__) == _values(other, self.__compared__)

    def _hash(self):
        return hash(_values(self, self.__hashed__))

    def _setattr(_self, name, _value):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _delattr(_self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")
