"""Floor 4: sockets and widgets. Each node reads its inputs, calls one function and returns."""

from comfy_api.latest import ComfyExtension, io

from ..host.folders import register_folders
from ..host.version import check_host_version
from .anchor_frames import AnchorFrames
from .apply_domain_adapter import ApplyDomainAdapter
from .apply_motion_lora import ApplyMotionLoRA
from .cache_training_clips import CacheTrainingClips
from .camera_motion import CameraMotion
from .camera_motion_clips import CameraMotionClips
from .condition_on_image import ConditionOnImage
from .context_window import ContextWindow
from .evaluate_animation import EvaluateAnimation
from .frame_noise import FrameNoise
from .free_init import FreeInit
from .inflate_model import InflateModel
from .inspect_motion_file import InspectMotionFile
from .load_motion_module import LoadMotionModule
from .load_sparsectrl import LoadSparseCtrl
from .load_training_clips import LoadTrainingClips
from .motion_control import MotionControl
from .prompt_travel import PromptTravel
from .sample_animation import SampleAnimation
from .save_domain_adapter import SaveDomainAdapter
from .save_motion_lora import SaveMotionLoRA
from .save_motion_module import SaveMotionModule
from .train_domain_adapter import TrainDomainAdapter
from .train_motion_lora import TrainMotionLoRA
from .train_motion_module import TrainMotionModule
from .training_settings import TrainingSettings
from .view_window import ViewWindow

NODES: list[type[io.ComfyNode]] = [
    LoadMotionModule,
    ApplyMotionLoRA,
    ApplyDomainAdapter,
    InflateModel,
    ContextWindow,
    SampleAnimation,
    LoadTrainingClips,
    CameraMotionClips,
    CacheTrainingClips,
    TrainingSettings,
    TrainDomainAdapter,
    TrainMotionModule,
    TrainMotionLoRA,
    SaveMotionModule,
    SaveMotionLoRA,
    SaveDomainAdapter,
    ConditionOnImage,
    InspectMotionFile,
    MotionControl,
    CameraMotion,
    PromptTravel,
    EvaluateAnimation,
    ViewWindow,
    AnchorFrames,
    FrameNoise,
    FreeInit,
    LoadSparseCtrl,
]


class MotionGraftExtension(ComfyExtension):
    """What ComfyUI asks for the list of nodes."""

    async def on_load(self) -> None:
        """Check the host and register the model folders."""
        check_host_version()
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes."""
        return NODES
