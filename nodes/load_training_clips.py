"""LoadTrainingClips."""

from typing import Any

from comfy_api.latest import io

from ..host.input_folders import folder_stamp, list_input_folders
from ..host.training_clips import load_training_clips
from ..training.data.clip_settings import (
    LEAST_SIDE,
    MOST_CLIPS,
    MOST_FRAMES,
    MOST_SIDE,
    MOST_SKIPPED,
    MOST_STRIDE,
    SIDE_STEP,
    ClipSettings,
)
from .sockets import TRAINING_CATEGORY, TrainingClipsSocket


class LoadTrainingClips(io.ComfyNode):
    """Clips to train on, from a folder of videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_LoadTrainingClips",
            display_name="Load Training Clips",
            category=TRAINING_CATEGORY,
            description="Finds the videos of a folder and their captions, cuts clips from them, and tries each clip "
            "before anything trains. A bad video is named with its reason; no frame is ever repeated to fill a clip.",
            search_aliases=["video dataset", "training data", "WebVid", "dataset preflight", "load videos"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list_input_folders(),
                    tooltip="Folder in ComfyUI's input directory, with all folders in it. It holds videos (mp4, mov, "
                    "webm, mkv, gif, webp) or folders of frames; captions in a .txt beside each, or in metadata.csv.",
                ),
                io.Int.Input(
                    "num_frames",
                    default=16,
                    min=2,
                    max=MOST_FRAMES,
                    tooltip="Frames in a clip. 16 is what the published motion modules were trained on; more costs "
                    "memory in proportion.",
                ),
                io.Int.Input(
                    "frame_stride",
                    default=4,
                    min=1,
                    max=MOST_STRIDE,
                    tooltip="Every n-th frame of the video, by its timestamps. Higher is faster motion, and needs "
                    "longer videos; 1 takes each frame, 4 is as published.",
                ),
                io.Int.Input(
                    "width",
                    default=256,
                    min=LEAST_SIDE,
                    max=MOST_SIDE,
                    step=SIDE_STEP,
                    tooltip="Width of the clips in pixels. Videos are cropped to the middle to fit; 256 is as "
                    "published.",
                ),
                io.Int.Input(
                    "height",
                    default=256,
                    min=LEAST_SIDE,
                    max=MOST_SIDE,
                    step=SIDE_STEP,
                    tooltip="Height of the clips in pixels. Videos are cropped to the middle to fit; 256 is as "
                    "published.",
                ),
                io.Boolean.Input(
                    "flip",
                    default=False,
                    tooltip="Also train on the mirrored clips, twice the data. Leave it off where left and right "
                    "matter: camera motions, captions that name sides, writing.",
                ),
                io.Int.Input(
                    "clips_per_video",
                    default=1,
                    min=0,
                    max=MOST_CLIPS,
                    tooltip="Clips cut from each video, spread evenly, without overlap, as far as they fit. 1: from "
                    "its middle; 0: as many as fit.",
                ),
                io.Boolean.Input(
                    "aspect_buckets",
                    default=False,
                    tooltip="Keep the aspect of each video, at about the area of width × height. Off: all clips are "
                    "width × height.",
                ),
                io.Int.Input(
                    "min_frames",
                    default=0,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Let videos that are too short give shorter clips, of a multiple of 4 frames and at least "
                    "this many. 0: every clip has num_frames.",
                ),
                io.Float.Input(
                    "skip_at_most",
                    default=0.0,
                    min=0.0,
                    max=MOST_SKIPPED,
                    step=0.01,
                    tooltip="Share of the videos that may be bad; these are left out and named in the report. 0: one "
                    "bad video stops the workflow; 0.5: half of them may be bad.",
                ),
            ],
            outputs=[
                TrainingClipsSocket.Output(
                    display_name="clips", tooltip="Goes to Cache Training Clips, or first to Camera Motion Clips."
                ),
                io.String.Output(
                    display_name="report", tooltip="A line for each video: frames, size, caption, verdict."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **settings: Any) -> str:
        return folder_stamp(folder)

    @classmethod
    def execute(cls, folder: str, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(*load_training_clips(folder, ClipSettings(**settings)))
