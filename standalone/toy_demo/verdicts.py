"""What the measures say, in numbers and in sentences that may say that nothing was learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..toy_world.measures import STEADY, ClipMeasures, mean_measures
from ..toy_world.waves import HEADINGS, Waves
from .exhibition import Exhibit, Exhibition
from .runs import TrainedRun

LEARNED, PARTLY = 0.7, 0.3
"""Share of the way from before to the truth from which a stage counts as learned, or as learned in part."""


@dataclass(frozen=True)
class Row:
    """One measure: its name, what it is on true clips, before and after, and by chance if that is known."""

    name: str
    true: str
    before: str
    after: str
    chance: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came of one part: how close it got, 1 being all the way, and in words."""

    share: float
    words: str

    @property
    def grade(self) -> str:
        """`learned`, `partly` or `not learned`."""
        return "learned" if self.share >= LEARNED else "partly" if self.share >= PARTLY else "not learned"


def loss_sentence(run: TrainedRun) -> str:
    """How the loss at fixed noise went, on clips that were held out."""
    (_, first), (_, last) = run.validations[0], run.validations[-1]
    went = f"fell by {1 - last / first:.0%}" if last < first else "did not fall"
    return f"On held-out clips, at fixed noise, the loss {went}: {first:.4f} before, {last:.4f} after."


def base_verdict(exhibit: Exhibit) -> Verdict:
    means = mean_measures(exhibit.measures)
    share = sum(each.axis_is_right and each.heading_is_right for each in exhibit.measures) / len(exhibit.measures)
    return Verdict(
        share,
        f"Waves of the right length and axis in {means['axis_is_right']:.0%} of the clips (1 in 4 by chance), steep "
        f"side the right way in {means['heading_is_right']:.0%} (1 in 2 by chance).",
    )


def adapter_rows(shown: Exhibition) -> list[Row]:
    return _rows(
        (shown.true_videos, shown.base, shown.base_with_adapter),
        (("background level", "darkest", _level), ("scan lines", "scan_lines", _level)),
    )


def adapter_verdict(shown: Exhibition) -> Verdict:
    true, before, after = map(_means, (shown.true_videos, shown.base, shown.base_with_adapter))
    shares = [(after[name] - before[name]) / (true[name] - before[name]) for name in ("darkest", "scan_lines")]
    return Verdict(
        min(map(_closeness, shares)),
        f"Of what sets the videos apart, the adapter took on {shares[0]:.0%} of the haze and {shares[1]:.0%} of the "
        "scan lines. Without it, the base is what it was.",
    )


def module_rows(shown: Exhibition) -> list[Row]:
    rows = _rows(
        (shown.true_stills, shown.without_module, shown.with_module),
        (
            ("right way and speed", "goes_as_told", _share),
            ("the same, and steadily", "moves_as_told", _share),
            ("speed along the caption's way", "speed", _level),
            ("steadiness", "steadiness", _level),
            ("change from frame to frame", "change", _level),
            ("background level", "darkest", _level),
            ("scan lines", "scan_lines", _level),
        ),
    )
    chances = ("12.5%", "below 0.2%")
    return [
        Row(r.name, r.true, r.before, r.after, chance) for r, chance in zip(rows, (*chances, *[""] * 5), strict=True)
    ]


def module_verdict(shown: Exhibition) -> Verdict:
    before, after = _means(shown.without_module), _means(shown.with_module)
    count = len(shown.scenes)
    return Verdict(
        after["moves_as_told"],
        f"{round(after['moves_as_told'] * count)} of {count} clips move the way, the speed and as steadily as the law "
        f"of this world says; without the module {round(before['moves_as_told'] * count)} did.",
    )


def lora_rows(shown: Exhibition) -> list[Row]:
    flows = [_flow(exhibit, shown) for exhibit in (shown.true_camera, shown.with_module, shown.with_motion_lora)]
    others = _rows(
        (shown.true_camera, shown.with_module, shown.with_motion_lora), (("steadiness", "steadiness", _level),)
    )
    return [Row("camera flow, pixels a frame", *(f"{flow:+.2f}" for flow in flows)), *others]


def lora_verdict(shown: Exhibition) -> Verdict:
    true, after = _flow(shown.true_camera, shown), _flow(shown.with_motion_lora, shown)
    steadiness = min(_means(exhibit)["steadiness"] for exhibit in (shown.with_module, shown.with_motion_lora))
    if steadiness < STEADY:
        words = f"The clips are too unsteady to measure a camera by (steadiness {steadiness:.2f}, {STEADY} is needed)."
        return Verdict(0.0, words)
    return Verdict(
        _closeness(after / true),
        f"What the camera sees shifts by {after:+.2f} pixels a frame against the same clips without the MotionLoRA; "
        f"a true pan to the right shifts it by {true:+.2f}.",
    )


def _flow(exhibit: Exhibit, shown: Exhibition) -> float:
    """How much faster waves go to the right than without a camera, over those that go left or right at all.

    Units: pixels a frame
    """
    still = shown.true_stills if exhibit is shown.true_camera else shown.with_module
    pairs = zip(shown.scenes, exhibit.measures, still.measures, strict=True)
    shifts = [_to_the_right(told, one) - _to_the_right(told, other) for told, one, other in pairs if _is_level(told)]
    return sum(shifts) / len(shifts)


def _is_level(told: Waves) -> bool:
    return HEADINGS[told.heading][0] != 0


def _to_the_right(told: Waves, measured: ClipMeasures) -> float:
    return measured.speed * told.speed * HEADINGS[told.heading][0]


def _closeness(share: float) -> float:
    """How close a share of the way is to all of it: too far is as wrong as not far enough."""
    return 1 - abs(1 - share)


def _rows(
    exhibits: tuple[Exhibit, Exhibit, Exhibit], kinds: Sequence[tuple[str, str, Callable[[float], str]]]
) -> list[Row]:
    """Rows of true clips, before and after."""
    true, before, after = map(_means, exhibits)
    return [Row(name, text(true[key]), text(before[key]), text(after[key])) for name, key, text in kinds]


def _means(exhibit: Exhibit) -> dict[str, float]:
    return mean_measures(exhibit.measures)


def _level(value: float) -> str:
    return f"{value:.2f}"


def _share(value: float) -> str:
    return f"{value:.0%}"
