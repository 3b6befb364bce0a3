"""Values that JSON gives back as they were."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...core.errors import RunError


def plain(value: object, place: str) -> Any:
    """The value as it will be read back: own dictionaries and lists, tuples as lists.

    Raises: RunError naming the place of anything that is no JSON, such as a tensor.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        entries = cast(Mapping[object, object], value).items()
        return {_name(key, place): plain(entry, f"{place}.{key}") for key, entry in entries}
    if isinstance(value, list | tuple):
        entries = cast(Sequence[object], value)
        return [plain(entry, f"{place}[{index}]") for index, entry in enumerate(entries)]
    raise RunError(
        f"{place} should be text, a number, true, false, nothing, or a list or dictionary of these, found a "
        f"{type(value).__name__}. Write it as one of these; tensors belong into the tensors of a checkpoint."
    )


def _name(key: object, place: str) -> str:
    if isinstance(key, str):
        return key
    raise RunError(f"{place} should have texts as keys, found {key!r}. Write its keys as texts.")
