"""The command `animate`: a clip from a checkpoint, a motion module and a prompt, without ComfyUI."""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from ..motion_modules.generations import AUTO as AUTO_GENERATION
from ..motion_modules.generations import GENERATIONS
from ..motion_modules.module import MotionModule
from ..sampling.beta_schedules import AUTO as AUTO_SCHEDULE
from ..sampling.beta_schedules import BETA_SCHEDULES, USE_EXISTING
from ..sampling.clip_length import check_clip_length
from ..sampling.context_windows import FUSE_METHODS, SCHEDULES, ContextWindowSettings
from ..sampling.noise_levels import SAMPLERS
from ..training.noise_schedule import signal_shares
from .animation import AnimationSettings, Prompts, animate
from .autoencoders import load_autoencoder
from .devices import AUTO, PRECISIONS, device_called, precision_called
from .diffusers_base import DiffusersBase, load_base
from .diffusers_denoiser import DiffusersDenoiser
from .given_files import check_given
from .motion_files import (
    add_motion_lora,
    load_domain_adapter,
    load_motion_lora,
    load_motion_module,
    with_domain_adapter,
)
from .text_encoders import load_prompt_encoder
from .webp_files import check_new_webp, write_webp

STRENGTH_SEPARATOR = ":"
WEIGHT_SUFFIXES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `animate`."""
    defaults, windows = AnimationSettings(), ContextWindowSettings()
    parser.add_argument("--base", type=Path, required=True, help="SD 1.5 or SDXL: a checkpoint or a diffusers folder")
    parser.add_argument("--motion-module", type=Path, required=True)
    parser.add_argument(
        "--generation",
        choices=[AUTO_GENERATION, *GENERATIONS],
        default=AUTO_GENERATION,
        help="where its file cannot tell",
    )
    parser.add_argument("--motion-lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="may be repeated")
    parser.add_argument("--domain-adapter", metavar="FILE[:STRENGTH]")
    parser.add_argument("--tokenizer", type=Path, help="folder of a CLIP tokenizer, for a single-file checkpoint")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="")
    parser.add_argument("--frames", type=int, default=defaults.frames)
    parser.add_argument("--width", type=int, default=defaults.width)
    parser.add_argument("--height", type=int, default=defaults.height)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--cfg", type=float, default=defaults.cfg)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--sampler", choices=list(SAMPLERS), default=defaults.sampler)
    schedules = [AUTO_SCHEDULE, USE_EXISTING, "animatediff", "sdxl-beta", "linear"]
    parser.add_argument("--beta-schedule", choices=schedules, default=AUTO_SCHEDULE)
    _add_window_arguments(parser, windows)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--device", default=AUTO, help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=[AUTO, *PRECISIONS], default=AUTO)
    parser.add_argument("--out", type=Path, required=True, help="a new .webp file")


def _add_window_arguments(parser: argparse.ArgumentParser, windows: ContextWindowSettings) -> None:
    parser.add_argument("--window-length", type=int, default=windows.length, help="for clips longer than this")
    parser.add_argument("--overlap", type=int, default=windows.overlap)
    parser.add_argument("--stride", type=int, default=windows.stride)
    parser.add_argument("--window-schedule", choices=SCHEDULES, default=windows.schedule)
    parser.add_argument("--fuse", choices=FUSE_METHODS, default=windows.fuse)
    parser.add_argument("--closed-loop", action="store_true", help="with --window-schedule looped")
    parser.add_argument("--no-freenoise", action="store_true")


def main(options: argparse.Namespace) -> int:
    """Write a clip and print its path.

    Raises: MotionError for what cannot be animated, before anything is sampled.
    """
    _check_files(options)
    settings = settings_of(options)
    device = device_called(options.device)
    module = _motion_module(options, settings)
    base = _base(options)
    prompts = _prompts(options, base, device)
    denoiser = DiffusersDenoiser(
        base, device, precision_called(options.precision, device), module.to(device), options.motion_module.name
    )
    autoencoder = load_autoencoder(options.base, base.latent_scale, device)
    latents = animate(denoiser, _shares(options.beta_schedule, module, base), prompts, settings, _say_step)
    write_webp(options.out, autoencoder.decode(latents), options.fps)
    print(options.out)  # noqa: T201 - the command's answer
    return 0


def settings_of(options: argparse.Namespace) -> AnimationSettings:
    """The settings that a command line describes. Raises: SettingsError for what cannot be."""
    if not 0 < options.fps <= 1000:
        raise SettingsError(f"--fps should be above 0 and at most 1000, found {options.fps}. 8 suits most clips.")
    windows = ContextWindowSettings(
        options.window_length,
        options.overlap,
        options.stride,
        options.window_schedule,
        options.fuse,
        options.closed_loop,
        not options.no_freenoise,
    )
    return AnimationSettings(
        options.frames,
        options.width,
        options.height,
        options.steps,
        options.cfg,
        options.seed,
        options.sampler,
        windows,
    )


def file_and_strength(text: str) -> tuple[Path, float]:
    """`zoom.safetensors:0.8` as a path and a number; 1 where no strength is given.

    Raises: SettingsError if what follows the last colon is neither a number nor part of a file's name.
    """
    path, separator, strength = text.rpartition(STRENGTH_SEPARATOR)
    if not separator or Path(text).suffix.lower() in WEIGHT_SUFFIXES:
        return Path(text), 1.0
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(
            f"expected FILE or FILE:STRENGTH, found {text!r}. Write, for example, zoom.safetensors:0.8."
        )
    return Path(path), number


def _check_files(options: argparse.Namespace) -> None:
    check_new_webp(options.out)
    check_given(options.base, "--base")
    check_given(options.motion_module, "--motion-module")
    for option, text in _loras_of(options):
        check_given(file_and_strength(text)[0], option)


def _loras_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    adapter = [] if options.domain_adapter is None else [("--domain-adapter", options.domain_adapter)]
    return [*(("--motion-lora", text) for text in options.motion_lora), *adapter]


def _motion_module(options: argparse.Namespace, settings: AnimationSettings) -> MotionModule:
    module = load_motion_module(options.motion_module, options.generation)
    if module.spec.image_channels:
        raise IncompatibleModelError(
            f"{options.motion_module.name} animates an image, which this command does not take. "
            "Use it in ComfyUI, or choose another motion module."
        )
    spec, name = module.spec, options.motion_module.name
    window = settings.windows.length if settings.is_windowed else None
    check_clip_length(settings.frames, window, spec.num_positions, spec.trained_frames, name)
    for text in options.motion_lora:
        path, strength = file_and_strength(text)
        add_motion_lora(module, load_motion_lora(path), strength, name)
    return module


def _base(options: argparse.Namespace) -> DiffusersBase:
    base = load_base(options.base)
    if options.domain_adapter is None:
        return base
    path, strength = file_and_strength(options.domain_adapter)
    return with_domain_adapter(base, load_domain_adapter(path), strength, path.name)


def _shares(schedule: str, module: MotionModule, base: DiffusersBase) -> Tensor:
    if schedule == USE_EXISTING:
        return base.alphas
    chosen = module.spec.beta_schedule if schedule == AUTO_SCHEDULE else schedule
    if chosen not in BETA_SCHEDULES or BETA_SCHEDULES[chosen].original_steps is not None:
        raise SettingsError(
            f"the motion module names the noise schedule {chosen}, which is not sampled here. Choose one with "
            "--beta-schedule, or use ComfyUI."
        )
    return base.on(signal_shares(BETA_SCHEDULES[chosen]))


def _prompts(options: argparse.Namespace, base: DiffusersBase, device: torch.device) -> Prompts:
    encoder = load_prompt_encoder(options.base, base.shape.family, options.tokenizer, device)
    return Prompts(encoder.encode(options.prompt), encoder.encode(options.negative))


def _say_step(done: int, total: int) -> None:
    sys.stderr.write(f"\rstep {done}/{total}{chr(10) if done == total else ''}")
    sys.stderr.flush()
