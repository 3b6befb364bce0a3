"""Curves of a run as inline SVG, drawn with the page's own colours."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 520, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
SMOOTHED = 12
"""Points of the loss curve are means of about a twelfth of the steps each way."""
Point = tuple[float, float]


def loss_chart(losses: Sequence[float], validations: Sequence[tuple[int, float]]) -> str:
    """The loss of each step, its running mean, and the validations, on a logarithmic scale."""
    steps = list(enumerate(losses, start=1))
    known = [value for _, value in (*steps, *validations) if value > 0]
    low, high = math.log10(min(known)), math.log10(max(known))
    margin = max(0.05, (high - low) * 0.06)
    frame = _Frame(max(1, len(losses)), low - margin, high + margin)
    dots = "".join(
        f'<circle class="validation" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>step {step}: {loss:.5f}</title></circle>'
        for (step, loss), (x, y) in zip(validations, map(frame.place, validations), strict=True)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">{frame.grid()}'
        f'<path class="raw" d="{frame.path(steps)}"/><path class="mean" d="{frame.path(_running_mean(steps))}"/>'
        f'<path class="dashes" d="{frame.path(validations)}"/>{dots}</svg>'
    )


class _Frame:
    """Where a step and a loss lie in the picture. Units: low and high are powers of ten"""

    def __init__(self, steps: int, low: float, high: float):
        self.steps, self.low, self.high = steps, low, high

    def place(self, point: Point) -> Point:
        step, loss = point
        height = (math.log10(max(loss, 10**self.low)) - self.low) / (self.high - self.low)
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * height

    def path(self, points: Sequence[Point]) -> str:
        places = [self.place(point) for point in points]
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""

    def grid(self) -> str:
        """Lines at round losses, and numbers at both edges."""
        lines = [self._line(value) for value in _round_values(10**self.low, 10**self.high)]
        labels = [
            f'<text x="{self.place((step, 1))[0]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{label}</text>'
            for step, anchor, label in ((0, "start", "step 0"), (self.steps, "end", f"{self.steps}"))
        ]
        return "".join([*lines, *labels])

    def _line(self, value: float) -> str:
        _, y = self.place((0, value))
        return (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )


def _running_mean(points: Sequence[tuple[int, float]]) -> list[Point]:
    """Means over neighbours on both sides, fewer at the ends. Geometric, as the scale is."""
    reach = max(1, len(points) // SMOOTHED)
    means: list[Point] = []
    for index, (step, _) in enumerate(points):
        near = [math.log(max(loss, 1e-12)) for _, loss in points[max(0, index - reach) : index + reach + 1]]
        means.append((step, math.exp(sum(near) / len(near))))
    return means


def _round_values(low: float, high: float) -> list[float]:
    """Values 1, 2 and 5 times a power of ten; powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(digit * 10.0**power, 12) for power in powers for digit in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) <= 6 else [value for value in inside if f"{value:e}".startswith("1.")]
