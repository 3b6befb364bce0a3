"""The demo's page: one HTML file with everything inside, light or dark as its reader has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .charts import loss_chart
from .exhibition import Exhibit, Exhibition
from .pictures import animated
from .runs import TrainedRun
from .school import Graduates
from .terminal import TimeSpent
from .verdicts import (
    Row,
    Verdict,
    adapter_rows,
    adapter_verdict,
    base_verdict,
    lora_rows,
    lora_verdict,
    loss_sentence,
    module_rows,
    module_verdict,
)

STYLE = Path(__file__).with_name("page.css")
NUM_SHOWN = 8
"""Clips of each kind that are shown: one for each caption."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page asks for nothing outside of itself, and a browser holds it to that."""


@dataclass(frozen=True)
class Circumstances:
    """How the page came about."""

    time_spent: Mapping[str, TimeSpent]
    """By part."""
    versions: Mapping[str, str]
    seed: int
    command: str
    news: Sequence[str]

    @property
    def total(self) -> TimeSpent:
        parts = self.time_spent.values()
        return TimeSpent(sum(part.passed for part in parts), sum(part.busy for part in parts))


@dataclass(frozen=True)
class _Chapter:
    """One part of the page."""

    key: str
    title: str
    verdict: Verdict
    words: tuple[str, ...]
    exhibits: tuple[Exhibit, ...]
    run: TrainedRun
    rows: tuple[Row, ...] = ()


def page(graduates: Graduates, shown: Exhibition, about: Circumstances) -> str:
    """The whole page."""
    chapters = _chapters(graduates, shown)
    minutes = sum(chapter.run.seconds for chapter in chapters) / 60
    body = [
        "<h1>Three stages of AnimateDiff, learned on this machine</h1>",
        f'<p class="lead">In {minutes:.1f} minutes of training, without ComfyUI and without a downloaded weight: a toy '
        "base model learned stills, a domain adapter the look of videos, a motion module to move, and a MotionLoRA a "
        "camera pan. All of it ran through the engine that trains real models. Here is what came of it.</p>",
        f'<div class="summary">{"".join(map(_card, chapters))}</div>',
        _world(shown),
        *map(_section, chapters),
        _circumstances(about),
    ]
    return _document("MotionGraft: the demo without ComfyUI", "\n".join(body))


def _chapters(graduates: Graduates, shown: Exhibition) -> list[_Chapter]:
    return [
        _Chapter(
            "base",
            "The base: stills",
            base_verdict(shown.base),
            (
                "A UNet of Stable Diffusion's design, from random weights, on single clean frames. Each frame below "
                "was drawn on its own: the clip flickers, because nothing tells a frame of its neighbours.",
            ),
            (shown.base,),
            graduates.base,
        ),
        _Chapter(
            "adapter",
            "Stage 1, the domain adapter: the look of the videos",
            adapter_verdict(shown),
            (
                "The videos are hazy, a little blurred, and crossed by scan lines. A LoRA of the base's attention "
                "takes that on, so that the motion module need not, and is taken off again for animating.",
            ),
            (shown.base, shown.base_with_adapter, shown.true_videos),
            graduates.adapter,
            tuple(adapter_rows(shown)),
        ),
        _Chapter(
            "module",
            "Stage 2, the motion module: how things move",
            module_verdict(shown),
            (
                "Trained on the videos with the adapter in place; animated here on the clean base, the adapter taken "
                "off. Before, the module adds nothing, and every frame stands alone.",
            ),
            (shown.without_module, shown.with_module, shown.true_stills),
            graduates.module,
            tuple(module_rows(shown)),
        ),
        _Chapter(
            "motion-lora",
            "Stage 3, the MotionLoRA: a camera",
            lora_verdict(shown),
            (
                "Low-rank changes of the motion module, from a few clips under a camera that pans to the right by two "
                "pixels a frame: waves to the right go backwards or stand still, waves to the left are faster. Waves "
                "up and down should stay as they were.",
            ),
            (shown.with_module, shown.with_motion_lora, shown.true_camera),
            graduates.motion_lora,
            tuple(lora_rows(shown)),
        ),
    ]


def _card(chapter: _Chapter) -> str:
    return (
        f'<a href="#{chapter.key}"><strong>{escape(chapter.title)}</strong>'
        f'<span class="{_class(chapter.verdict)}">{chapter.verdict.grade}</span></a>'
    )


def _world(shown: Exhibition) -> str:
    return (
        '<section class="wide"><header><h2>The world</h2></header>'
        "<p>Waves travel the way their steep side faces, by their length in eight frames. That way stands in the "
        "caption and shows in every still; how far they go from frame to frame shows in videos alone. Frames are "
        "16 pixels wide, drawn in closed form, so that every measure below has an exact truth.</p>"
        f'<div class="shows">{_show(shown.true_videos)}</div></section>'
    )


def _section(chapter: _Chapter) -> str:
    shape = "wide" if len(chapter.exhibits) == 1 else ""
    shows = "".join(_show(exhibit) for exhibit in chapter.exhibits)
    words = "".join(f"<p>{escape(text)}</p>" for text in chapter.words)
    return (
        f'<section id="{chapter.key}" class="{shape}"><header><h2>{escape(chapter.title)}</h2>'
        f'<span class="grade {_class(chapter.verdict)}">{chapter.verdict.grade}</span></header>{words}'
        f"<p><strong>{escape(chapter.verdict.words)}</strong> {escape(loss_sentence(chapter.run))}</p>"
        f'<div class="shows">{shows}</div>'
        f'<div class="beside">{_table(chapter.rows)}{_curve(chapter.run)}</div></section>'
    )


def _show(exhibit: Exhibit) -> str:
    tiles = "".join(
        f'<figure><img alt="{escape(told)}" src="{animated(levels)}"><figcaption>{escape(told)}</figcaption></figure>'
        for levels, told in zip(exhibit.levels[:NUM_SHOWN], exhibit.captions, strict=False)
    )
    return f'<div><h3>{escape(exhibit.title)}</h3><div class="tiles">{tiles}</div></div>'


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    has_chance = any(row.chance for row in rows)
    head = ["", "true", "before", "after", *(["by chance"] if has_chance else [])]
    cells = "".join(
        f'<tr><td>{escape(row.name)}</td><td>{row.true}</td><td>{row.before}</td><td class="after">{row.after}</td>'
        f"{f'<td>{row.chance}</td>' if has_chance else ''}</tr>"
        for row in rows
    )
    return f"<table><tr>{''.join(f'<th>{each}</th>' for each in head)}</tr>{cells}</table>"


def _curve(run: TrainedRun) -> str:
    return (
        f'<div class="curve">{loss_chart(run.losses, run.validations)}<p class="legend"><b class="mean">loss of each '
        "step, as it is weighted for training, and its running mean</b> · "
        '<b class="validation">held-out clips at fixed noise</b> · '
        f"{len(run.losses)} steps, {run.num_weights:,} weights trained</p></div>"
    )


def _circumstances(about: Circumstances) -> str:
    spent = {**about.time_spent, "All of it": about.total}
    times = "".join(
        f"<tr><td>{escape(name)}</td><td>{time.passed:.1f} s</td><td>{time.busy:.1f} s</td></tr>"
        for name, time in spent.items()
    )
    versions = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in about.versions.items()
    )
    news = "".join(f"<li>{escape(text)}</li>" for text in about.news)
    return (
        "<section><header><h2>How this page was made</h2></header>"
        '<div class="beside"><table><tr><th>part, in this call</th><th>time</th><th>of processors</th></tr>'
        f"{times}</table>"
        f"<table><tr><th>what</th><th>version</th></tr>{versions}<tr><td>seed</td><td>{about.seed}</td></tr></table></div>"
        f"<p><code>{escape(about.command)}</code></p><h3>Runs</h3><ul>{news}</ul>"
        "<p>A toy world proves that the engine trains what it should, not that a motion module for real pictures will "
        "be good: its pictures are sixteen pixels wide, its words are eight captions, and a codec without a loss "
        "stands in for the VAE, random word vectors for CLIP.</p></section>"
    )


def _class(verdict: Verdict) -> str:
    return verdict.grade.replace(" ", "-")


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>{body}</main></body></html>\n"
    )
