"""How close two results are, measured against the size of what is expected."""

from torch import Tensor

RELATIVE = 1e-5
"""float32 over some hundred layers, in another order of operations."""


def assert_close(found: Tensor, expected: Tensor, tolerance: float = RELATIVE) -> None:
    """Fail unless the largest difference is below `tolerance` times the largest expected value."""
    difference = (found.double() - expected.double()).abs().max().item()
    size = expected.abs().max().item()
    assert difference <= tolerance * size, f"differs by {difference:.3g} where values reach {size:.3g}"


def assert_differs(found: Tensor, other: Tensor, least: float = 1e-3) -> None:
    """Fail unless the largest difference is above `least` times the largest value."""
    difference = (found.double() - other.double()).abs().max().item()
    assert difference > least * other.abs().max().item(), f"differs by {difference:.3g} alone"
