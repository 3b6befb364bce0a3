"""The result of a measurement of training, as data and as a page to read."""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from ..pages import megabytes, table, write_results
from ..report import BUSY
from .settings import OURS, THEIRS

TERA = 1e12
PERCENT = 100
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest relative difference of two losses of the same work: float32 over some hundred layers, or bfloat16 there."""
COLUMNS = [
    "",
    "",
    "time ÷ diffusers",
    "by turn",
    "processor time ÷ diffusers",
    "seconds a step",
    "range",
    "share of product rate",
    "arithmetic, TFLOP",
    "trained weights",
    "peak memory",
    "of it in a step",
]
LEGEND = (
    "Medians of training steps (forward, loss, backward, clipping, AdamW) in turn, after a first round that does not "
    "count. By turn: least and greatest ratio to diffusers' step of the same turn. Processor time: the median of its "
    "ratios by turn; others on the machine change it less. Share of product rate: the step's arithmetic by its time, "
    "beside that of a large square matrix product of the same type in the same turns. Arithmetic: convolutions, matrix "
    "products and attention, forward and backward. Peak memory: of weights, gradients, moments and activations, in a "
    "process of its own; in a step: what comes on top of weights and moments."
)


@dataclass(frozen=True)
class SideResult:
    """What a training step cost on one side."""

    seconds: list[float]
    """Every measured step, in order. Units: seconds."""
    processor_seconds: list[float]
    """What the same steps took of the processors, over all threads."""
    trained_weights: int
    flops: int
    """Units: floating point operations of one step."""
    peak_bytes: float | None = None
    """Growth of memory from before the model to the peak of a step; None where the system does not tell."""
    step_bytes: float | None = None
    """Growth of memory during a step."""

    @property
    def median(self) -> float:
        """Units: seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Agreement:
    """Losses and gradient norms of the first step, ours first, with the same weights and the same norms."""

    losses: tuple[float, float]
    gradient_norms: tuple[float, float]
    precision: str

    @property
    def holds(self) -> bool:
        """Whether both sides do the same work."""
        return max(self.loss_difference, self.gradient_difference) <= TOLERANCES[self.precision]

    @property
    def loss_difference(self) -> float:
        """Relative to diffusers' loss."""
        return _relative(self.losses)

    @property
    def gradient_difference(self) -> float:
        """Relative to diffusers' gradient norm."""
        return _relative(self.gradient_norms)


@dataclass(frozen=True)
class CaseResult:
    """Both sides of one kind of training step."""

    name: str
    ours: SideResult
    theirs: SideResult
    agreement: Agreement
    product_rates: list[float]
    """Of a large square product in each turn. Units: floating point operations a second."""

    @property
    def ratios(self) -> list[float]:
        """Our seconds by theirs, turn by turn."""
        return [ours / theirs for ours, theirs in zip(self.ours.seconds, self.theirs.seconds, strict=True)]

    @property
    def processor_ratio(self) -> float:
        """Our processor time by theirs, the median of all turns."""
        pairs = zip(self.ours.processor_seconds, self.theirs.processor_seconds, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def share_of_product_rate(self, side: SideResult) -> float:
        """How near a step comes to multiplying matrices and nothing else."""
        return side.flops / side.median / statistics.median(self.product_rates)


@dataclass(frozen=True)
class TrainingResult:
    """Everything a result file holds."""

    command: str
    clip: str
    machine: dict[str, str]
    versions: dict[str, str]
    cases: list[CaseResult]

    def write(self, path: Path) -> None:
        """Write `path`.json and `path`.md."""
        write_results(path, asdict(self), as_markdown(self))


def as_markdown(result: TrainingResult) -> str:
    """The page: ratios first, then agreement, machine, versions and command."""
    sections = [
        f"# A training step: {result.clip}",
        table(COLUMNS, [row for case in result.cases for row in _rows(case)]),
        LEGEND,
        *_warnings(result.cases),
        *(_agreement(case) for case in result.cases),
        table(["machine", ""], [[name, value] for name, value in (result.machine | result.versions).items()]),
        f"`{result.command}`",
    ]
    return "\n\n".join(sections) + "\n"


def _rows(case: CaseResult) -> list[list[str]]:
    ratio = f"**{case.ours.median / case.theirs.median:.3f}**"
    by_turn = f"{min(case.ratios):.2f} to {max(case.ratios):.2f}"
    return [
        [case.name, OURS, ratio, by_turn, f"{case.processor_ratio:.3f}", *_cells(case, case.ours)],
        ["", THEIRS, "1", "", "1", *_cells(case, case.theirs)],
    ]


def _cells(case: CaseResult, side: SideResult) -> list[str]:
    return [
        f"{side.median:.3f}",
        f"{min(side.seconds):.3f} to {max(side.seconds):.3f}",
        f"{PERCENT * case.share_of_product_rate(side):.0f} %",
        f"{side.flops / TERA:.3f}",
        f"{side.trained_weights:,}",
        megabytes(side.peak_bytes),
        megabytes(side.step_bytes),
    ]


def _warnings(cases: list[CaseResult]) -> list[str]:
    worst = max(max(case.theirs.seconds) / min(case.theirs.seconds) for case in cases)
    return [f"**The machine was busy**: the same steps differ by a factor of {worst:.1f}."] if worst > BUSY else []


def _agreement(case: CaseResult) -> str:
    found = case.agreement
    verdict = "agree" if found.holds else "**do not agree; the two sides do not do the same work**"
    return (
        f"{case.name}: the first losses, {found.losses[0]:.6f} and {found.losses[1]:.6f} "
        f"(relative difference {found.loss_difference:.0e}), and gradient norms, {found.gradient_norms[0]:.5f} and "
        f"{found.gradient_norms[1]:.5f} ({found.gradient_difference:.0e}), {verdict}."
    )


def _relative(pair: tuple[float, float]) -> float:
    return abs(pair[0] - pair[1]) / abs(pair[1])
