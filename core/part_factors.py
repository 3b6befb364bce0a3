"""Factors for parts of a motion module, from lines such as `up_blocks.1: 0.5`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import SettingsError, some

EXAMPLES = "down_blocks.0, mid_block, up_blocks.3.motion_modules.1"
_BLOCK = re.compile(r"(?:down|up)_blocks\.\d+|mid_block")


@dataclass(frozen=True)
class PartFactors:
    """Factors by part of a layer's name."""

    factors: tuple[tuple[str, float], ...] = ()

    def of(self, name: str) -> float:
        """The product of all factors whose part is one or more whole words of a name."""
        product = 1.0
        for part, factor in self.factors:
            if _is_part(part, name):
                product *= factor
        return product

    def check_parts(self, names: Iterable[str], widget: str, whole: str) -> None:
        """Raises: SettingsError if a line names no part of any of the names, which are those of `whole`."""
        names = list(names)
        idle = [part for part, _ in self.factors if not any(_is_part(part, name) for name in names)]
        if idle:
            raise SettingsError(
                f"{widget}: {some(idle)} is no part of {whole}, such as {some(names[:1])}. "
                f"Parts are {', '.join(_blocks(names))}, and words of the names inside them."
            )


def parse_part_factors(text: str, widget: str) -> PartFactors:
    """The factors in a widget's text, one `name: factor` a line.

    Raises: SettingsError if a line is something else.
    """
    return PartFactors(tuple(_factor(line, widget) for line in text.splitlines() if line.strip()))


def _factor(line: str, widget: str) -> tuple[str, float]:
    name, separator, value = line.rpartition(":")
    try:
        factor = float(value)
    except ValueError:
        factor = float("nan")
    if not separator or not name.strip() or not abs(factor) < float("inf"):
        raise SettingsError(
            f"{widget}: expected a name and a factor a line, such as `up_blocks.1: 0.5`, found {line.strip()!r}. "
            f"Names are {EXAMPLES} and the like."
        )
    return name.strip(), factor


def _blocks(names: Iterable[str]) -> list[str]:
    """Each block that names lie in, once: `down_blocks.0`, `mid_block`."""
    return list(dict.fromkeys(found[0] for found in map(_BLOCK.match, names) if found))


def _is_part(part: str, name: str) -> bool:
    return f".{part}." in f".{name}."
