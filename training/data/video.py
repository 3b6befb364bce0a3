"""Video files through FFmpeg: what is in them, and single frames by timestamp, without decoding from the start."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av

from .decoded_frames import shown_picture
from .frame_source import BadClipError, Picture
from .frame_times import average_rate
from .webdataset import ShardPart

_av = cast(Any, av)
FORMATS = "mov,mp4,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf"
"""What a video file may be inside; playlists, which could open other files and addresses, are not among them."""
CUT_OFF_SECONDS = 0.5
"""How far the last packet may stay behind the declared duration before a file counts as cut off."""
_READ_ERRORS = (_av.FFmpegError, OSError, ValueError, EOFError)
_ATTACHED_PICTURE = 0x400
"""Cover art is listed as a video stream. Source: FFmpeg, AV_DISPOSITION_ATTACHED_PIC."""


@dataclass(frozen=True)
class Video:
    """A video file, or one inside a shard, its frames in the order they are shown.

    Units: times in seconds; pts and keyframes in the ticks of the file.
    """

    path: Path
    times: tuple[float, ...]
    pts: tuple[int, ...]
    keyframes: tuple[int, ...]
    part: ShardPart | None = None

    @property
    def member(self) -> str:
        return self.path.relative_to(self.part.shard).as_posix() if self.part else ""

    @property
    def rate(self) -> float | None:
        """Average frames per second; None for a single frame."""
        return average_rate(self.times)

    def pictures(self, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at these rising indices. Raises: BadClipError for one that cannot be decoded."""
        with closing(_Reader(self)) as reader:
            for frame in frames:
                yield reader.picture(frame)

    def files(self, frames: Sequence[int]) -> tuple[Path, ...]:
        """The video file, or the shard that it lies in."""
        return (self.part.shard if self.part else self.path,)


def probe_video(path: Path, part: ShardPart | None = None) -> Video:
    """What a video file holds, from its packets: nothing is decoded, and no header is trusted with a count.

    For a video inside a shard, `part` says where it lies, and `path` how it is called in messages.

    Raises: BadClipError if the file is no video, has none in it, or is cut off.
    """
    with _open(path, part) as container:
        stream = _video_stream(path, container)
        try:
            packets = _Packets(container, stream)
        except _READ_ERRORS as error:
            raise BadClipError(path, f"cannot be read to its end ({_words(error)}); get the file again") from error
        packets.check(path)
        pts, second = tuple(sorted(packets.shown)), Fraction(stream.time_base)
        times = tuple(float((tick - pts[0]) * second) for tick in pts)
        return Video(path, times, pts, tuple(sorted(packets.keyframes)) or pts[:1], part)


class _Packets:
    """One pass over the packets of a file: timestamps of the frames that are shown, and whether the file is whole."""

    def __init__(self, container: Any, stream: Any):
        self.shown: set[int] = set()
        self.keyframes: set[int] = set()
        self._end = self._start = float(container.start_time or 0) / _av.time_base
        self._declared = float(container.duration or 0) / _av.time_base
        self._damaged = False
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                self._count(packet, packet.stream_index == stream.index)

    def _count(self, packet: Any, is_video: bool) -> None:
        self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if not is_video:
            return
        self._damaged |= packet.is_corrupt
        if packet.is_keyframe:
            self.keyframes.add(packet.pts)
        if not packet.is_discard:  # an edit list may hide frames that others need
            self.shown.add(packet.pts)

    def check(self, path: Path) -> None:
        if not self.shown:
            raise BadClipError(path, "there is no frame with a timestamp in it; convert it to mp4")
        found = self._end - self._start
        if self._damaged or found + found / len(self.shown) + CUT_OFF_SECONDS < self._declared:
            raise BadClipError(
                path, f"the file is cut off after {found:.2f} of {self._declared:.2f} seconds; get it again"
            )


class _Reader:
    """Decodes towards rising timestamps: from the keyframe before, or from the start where seeking misses."""

    def __init__(self, video: Video):
        self._video = video
        self._reached: int | None = None
        self._may_seek = True
        self._start()

    def _start(self) -> None:
        self._container = _open(self._video.path, self._video.part)
        self._stream = _video_stream(self._video.path, self._container)
        self._stream.thread_type = "AUTO"
        self._frames: Iterator[Any] = self._container.decode(self._stream)

    def close(self) -> None:
        self._container.close()

    def picture(self, index: int) -> Picture:
        """The picture at this index. Raises: BadClipError if it cannot be decoded."""
        pts = self._video.pts[index]
        keyframe = self._video.keyframes[max(0, bisect_right(self._video.keyframes, pts) - 1)]
        frame = self._sought(keyframe, pts) if self._may_seek else self._advanced(keyframe, pts)
        if frame is None and self._may_seek:
            self._may_seek = False
            self.close()
            self._start()
            frame = self._advanced(keyframe, pts)
        if frame is None:
            seconds = self._video.times[index]
            raise BadClipError(self._video.path, f"the frame at {seconds:.2f} s cannot be decoded; get the file again")
        return shown_picture(frame, self._stream.sample_aspect_ratio)

    def _sought(self, keyframe: int, pts: int) -> Any:
        if self._reached is None or self._reached < keyframe:
            try:
                self._container.seek(keyframe, stream=self._stream)
            except _READ_ERRORS:
                return None
            self._frames = self._container.decode(self._stream)
        return self._advanced(keyframe, pts)

    def _advanced(self, keyframe: int, pts: int) -> Any:
        """The frame with this timestamp; None if the decoder passes it by, fails, or meets damage after the keyframe.

        Frames before the keyframe count as damaged after a seek, since what they refer to was not decoded.
        """
        try:
            for frame in self._frames:
                self._reached = frame.pts
                if frame.pts is None or frame.pts < keyframe:
                    continue
                if frame.is_corrupt or frame.pts > pts:
                    return None
                if frame.pts == pts:
                    return frame
        except _READ_ERRORS:
            return None
        return None


def _open(path: Path, part: ShardPart | None) -> Any:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        source = part.open() if part else str(path.resolve())
        return _av.open(source, options=options, metadata_errors="ignore")
    except _READ_ERRORS as error:
        raise BadClipError(path, f"not a video that can be read ({_words(error)}); get the file again") from error


def _video_stream(path: Path, container: Any) -> Any:
    streams = [stream for stream in container.streams.video if not stream.disposition.value & _ATTACHED_PICTURE]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise BadClipError(path, f"there is no video in it, only {kinds}; remove it from the folder")
    return streams[0]


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
