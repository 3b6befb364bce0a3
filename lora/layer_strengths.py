"""How strong a MotionLoRA is at each block or layer, from lines such as `up_blocks.1: 0.5`."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import SettingsError, some
from .low_rank import LowRank
from .motion_lora import layer_of

EXAMPLES = "down_blocks.0, mid_block, up_blocks.3.motion_modules.1, attention_blocks.0, to_q"


@dataclass(frozen=True)
class LayerStrengths:
    """Factors by part of a layer's name."""

    factors: tuple[tuple[str, float], ...] = ()

    def of(self, change: LowRank) -> float:
        """The product of all factors whose name is part of the change's own."""
        product = 1.0
        for name, factor in self.factors:
            if _is_part(name, layer_of(change)):
                product *= factor
        return product

    def check_names(self, changes: Iterable[LowRank], lora: str) -> None:
        """Raises: SettingsError if a line names nothing that the MotionLoRA changes."""
        layers = [layer_of(change) for change in changes]
        idle = [name for name, _ in self.factors if not any(_is_part(name, layer) for layer in layers)]
        if idle:
            raise SettingsError(
                f"layers: {some(idle)} is no part of what {lora} changes, such as {some(layers[:1])}. "
                f"Names are {EXAMPLES} and the like."
            )


def parse_layer_strengths(text: str) -> LayerStrengths:
    """The factors in a widget's text, one `name: factor` a line.

    Raises: SettingsError if a line is something else.
    """
    return LayerStrengths(tuple(_factor(line) for line in text.splitlines() if line.strip()))


def _factor(line: str) -> tuple[str, float]:
    name, separator, value = line.rpartition(":")
    try:
        factor = float(value)
    except ValueError:
        factor = float("nan")
    if not separator or not name.strip() or not abs(factor) < float("inf"):
        raise SettingsError(
            f"layers: expected a name and a factor a line, such as `up_blocks.1: 0.5`, found {line.strip()!r}. "
            f"Names are {EXAMPLES} and the like."
        )
    return name.strip(), factor


def _is_part(name: str, layer: str) -> bool:
    """Whether whole words of a layer's name are this name."""
    return f".{name}." in f".{layer}."
