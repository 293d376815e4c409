"""Named extension points: built-in implementations and those of installed packages.

A registry maps a name to an object, given as "module:attribute" and imported when it is asked for.
A package outside adds one by an entry point in the registry's group, in its pyproject.toml:

    [project.entry-points."pmni.metrics"]
    hausdorff = "my_package.metrics:HAUSDORFF"

`docs/extending.md` shows each of them.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from pmni.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations of one kind by name, in the order in which they were registered."""

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        """`kind` is what messages call an entry; `group` is the entry points' group."""
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._added: dict[str, T] = {}

    @cached_property
    def _locations(self) -> dict[str, str]:
        """'module:attribute' by name. Raises InputError for a name that is taken twice."""
        locations = dict(self._built_in)
        for entry in entry_points(group=self.group):
            if entry.name in locations and locations[entry.name] != entry.value:
                raise InputError(
                    f"{self.kind} '{entry.name}' is registered twice: {locations[entry.name]} and "
                    f"{entry.value}; uninstall one of the packages"
                )
            locations[entry.name] = entry.value
        return locations

    def register(self, name: str, implementation: T) -> T:
        """Add an implementation in this process. Raises InputError for a name that is taken."""
        if name in self:
            raise InputError(f"{self.kind} '{name}' is registered already; choose another name")
        self._added[name] = implementation
        return implementation

    def names(self) -> tuple[str, ...]:
        """All names; nothing is imported."""
        return (*self._locations, *self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._locations or name in self._added

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def check(self, name: str) -> str:
        """The name, if it is registered. Raises ValueError, as a validator of settings does."""
        if name not in self:
            raise ValueError(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}")
        return name

    def __getitem__(self, name: str) -> T:
        """The implementation, imported if need be. Raises InputError for an unknown name."""
        if name in self._added:
            return self._added[name]
        if name not in self._locations:
            raise InputError(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}")
        module, _, attribute = self._locations[name].partition(":")
        return cast(T, getattr(import_module(module), attribute))
