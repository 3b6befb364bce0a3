"""The result of a measurement, as data and as a page to read."""

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .pages import megabytes, table, write_results
from .settings import PLAIN

MILLI = 1e-3
BUSY = 1.2
"""Plain steps that differ more than this were not alone on the machine."""
COLUMNS = ["", "time ÷ plain", "by turn", "seconds a step", "range", "peak memory", "arithmetic ÷ plain"]
LEGEND = (
    "Medians of steps in turn. By turn: least and greatest ratio to the plain step of the same turn. "
    "Peak memory: growth during a step, in a process of its own. "
    "Arithmetic: floating point operations of convolutions and matrix products."
)


@dataclass(frozen=True)
class VariantResult:
    """What one variant cost."""

    seconds: list[float]
    """Every measured step, in order. Units: seconds."""
    peak_bytes: float | None = None
    """Growth of memory during a step, in a process of its own; None where the system does not tell. Units: bytes."""
    flops: float | None = None
    """Arithmetic of convolutions and matrix products in a step. Units: floating point operations."""

    @property
    def median(self) -> float:
        """Units: seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Agreement:
    """How far the last predictions of two variants with the same motion weights lie apart."""

    variants: tuple[str, str]
    largest_difference: float
    largest_value: float


@dataclass(frozen=True)
class Result:
    """Everything a result file holds."""

    command: str
    clip: str
    machine: dict[str, str]
    versions: dict[str, str]
    variants: dict[str, VariantResult]
    agreements: list[Agreement] = field(default_factory=lambda: [])
    parts: list[Any] = field(default_factory=lambda: [])

    def write(self, path: Path) -> None:
        """Write `path`.json and `path`.md."""
        write_results(path, asdict(self), as_markdown(self))


def as_markdown(result: Result) -> str:
    """The page: ratios first, then agreement, parts, machine, versions and command."""
    sections = [
        f"# A sampling step: {result.clip}",
        table(COLUMNS, _rows(result)),
        LEGEND,
        *_warnings(result.variants[PLAIN].seconds),
        *(_agreement(agreement) for agreement in result.agreements),
        *(_parts(part.title, part.seconds) for part in result.parts),
        table(["machine", ""], [[name, value] for name, value in (result.machine | result.versions).items()]),
        f"`{result.command}`",
    ]
    return "\n\n".join(sections) + "\n"


def _rows(result: Result) -> list[list[str]]:
    plain = result.variants[PLAIN]
    return [[name, *_cells(variant, plain)] for name, variant in result.variants.items()]


def _cells(variant: VariantResult, plain: VariantResult) -> list[str]:
    by_turn = [mine / base for mine, base in zip(variant.seconds, plain.seconds, strict=True)]
    return [
        f"**{variant.median / plain.median:.3f}**",
        f"{min(by_turn):.2f} to {max(by_turn):.2f}",
        f"{variant.median:.2f}",
        f"{min(variant.seconds):.2f} to {max(variant.seconds):.2f}",
        megabytes(variant.peak_bytes),
        "not counted" if variant.flops is None or not plain.flops else f"{variant.flops / plain.flops:.3f}",
    ]


def _warnings(plain: list[float]) -> list[str]:
    ratio = max(plain) / min(plain)
    return [f"**The machine was busy**: plain steps differ by a factor of {ratio:.1f}."] if ratio > BUSY else []


def _agreement(agreement: Agreement) -> str:
    first, second = agreement.variants
    return (
        f"Largest difference between the predictions of {first} and {second}: {agreement.largest_difference:.1e}, "
        f"where values reach {agreement.largest_value:.0f}."
    )


def _parts(title: str, seconds: dict[str, float]) -> str:
    rows = [[name, f"{value / MILLI:.2f}"] for name, value in seconds.items()]
    return f"## {title.capitalize()}\n\n{table(['', 'milliseconds'], rows)}"
