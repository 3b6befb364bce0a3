"""From a source of frames to the clips cut from it, each tried at its first, middle and last frame."""

from itertools import pairwise

from .buckets import bucket_size
from .camera_path import SourceSize
from .clip_files import ClipFile
from .clip_settings import ClipSettings
from .clips import Cut, TrainingClip, check_size
from .frame_source import BadClipError, FrameSource
from .frame_times import clip_starts, frames_needed, shown_frames
from .picture_files import probe_animated_picture, probe_frame_folder
from .video import probe_video

LENGTH_STEP = 4
"""Clips shorter than num_frames have a multiple of this many frames, so that there are few lengths."""


def open_source(file: ClipFile) -> FrameSource:
    """The frames of a video or folder. Raises: BadClipError if it cannot be read."""
    if file.fault:
        raise BadClipError(file.path, file.fault)
    if file.frames:
        return probe_frame_folder(file.path, file.frames)
    return (
        probe_animated_picture(file.path) if file.path.suffix.lower() == ".webp" else probe_video(file.path, file.part)
    )


def cut_clips(source: FrameSource, name: str, caption: str, settings: ClipSettings) -> tuple[TrainingClip, ...]:
    """The clips of one source, checked. Raises: BadClipError with the reason why it cannot be trained on."""
    num_frames = _clip_length(source, settings)
    needed = frames_needed(num_frames, settings.frame_stride)
    starts = clip_starts(len(source.times), needed, settings.clips_per_video)
    cuts = [_cut(source, shown_frames(source.times, start, num_frames, settings.frame_stride)) for start in starts]
    return tuple(_clip(cut, _numbered(name, number), caption, settings) for number, cut in enumerate(cuts, start=1))


def _clip_length(source: FrameSource, settings: ClipSettings) -> int:
    """Frames of the clips that this source gives."""
    total = len(source.times)
    if total >= frames_needed(settings.num_frames, settings.frame_stride):
        return settings.num_frames
    shorter = ((total - 1) // settings.frame_stride + 1) // LENGTH_STEP * LENGTH_STEP
    if not settings.min_frames or shorter < max(settings.min_frames, LENGTH_STEP):
        raise BadClipError(source.path, _too_short(total, settings))
    return shorter


def _too_short(total: int, settings: ClipSettings) -> str:
    needed = frames_needed(settings.num_frames, settings.frame_stride)
    stride, frames = (total - 1) // (settings.num_frames - 1), (total - 1) // settings.frame_stride + 1
    offers = [f"lower frame_stride to {stride}"] if stride else []
    offers += [f"lower num_frames to {frames}"] if frames > 1 else []
    offers += [f"lower frame_stride to 1 and num_frames to {total}"] if total > 1 and not stride else []
    return (
        f"{settings.num_frames} frames at stride {settings.frame_stride} need {needed} frames of video, "
        f"found {total}; {', or '.join(offers) or 'remove it, or use a longer one'}"
    )


def _cut(source: FrameSource, frames: tuple[int, ...]) -> Cut:
    _check_different(source, frames)
    first, *others = source.pictures(sorted({frames[0], frames[len(frames) // 2], frames[-1]}))
    cut = Cut(source, frames, SourceSize(*first.size, first.pixel_aspect))
    for picture in others:
        check_size(cut, picture)
    return cut


def _check_different(source: FrameSource, frames: tuple[int, ...]) -> None:
    repeated = next((frame for frame, following in pairwise(frames) if frame == following), None)
    if repeated is not None:
        raise BadClipError(
            source.path,
            f"the picture at {source.times[repeated]:.2f} s would be used twice, because the video stands still there "
            "(variable frame rate); raise frame_stride, or convert it to a constant frame rate",
        )


def _clip(cut: Cut, name: str, caption: str, settings: ClipSettings) -> TrainingClip:
    width, height = settings.width, settings.height
    if settings.aspect_buckets:
        width, height = bucket_size(width, height, cut.size.shown_width / cut.size.height)
    return TrainingClip(name, caption, len(cut.frames), height, width, None, cut)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"
