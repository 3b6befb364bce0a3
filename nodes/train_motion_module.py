"""TrainMotionModule."""

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..host.motion_modules import LoadedMotionModule
from ..host.training import TrainingRequest, run_stamp, train_motion_module
from ..training.cache.cached_clips import CachedClips
from ..training.settings import TrainingSettings
from ..training.stages import LAYOUTS
from .sockets import TRAINING_CATEGORY, MotionModuleSocket
from .training_inputs import adapter_input, loss_output, shared_inputs, vae_input


class TrainMotionModule(io.ComfyNode):
    """Stage 2: motion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_TrainMotionModule",
            display_name="Train Motion Module",
            category=TRAINING_CATEGORY,
            description="Stage 2 of 3. Trains temporal attention on whole clips; the base model and the domain "
            "adapter stay as they are, so that the result moves other models of the same family. Stopped, it goes on "
            "where it was.",
            search_aliases=["AnimateDiff training", "motion model training"],
            inputs=[
                *shared_inputs("motion_module"),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="v3",
                    tooltip="v3: after every spatial layer. v2: in the middle block as well. Ignored if a motion "
                    "module is connected.",
                ),
                adapter_input(),
                MotionModuleSocket.Input(
                    "motion_module",
                    optional=True,
                    tooltip="Start from this one, MotionLoRAs applied to it included, instead of from no motion.",
                ),
                vae_input(),
            ],
            outputs=[
                MotionModuleSocket.Output(
                    display_name="motion_module", tooltip="Goes to InflateModel, the next stage, or Save Motion Module."
                ),
                loss_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, run_name: str = "", **_: object) -> str:
        return run_stamp(run_name)

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        cached_clips: CachedClips,
        settings: TrainingSettings,
        run_name: str,
        layout: str,
        domain_adapter: Mapping[str, Tensor] | None = None,
        motion_module: LoadedMotionModule | None = None,
        vae: io.Vae.Type | None = None,
    ) -> io.NodeOutput:
        request = TrainingRequest(model, cached_clips, settings, run_name, vae, cls.hidden.unique_id)
        return io.NodeOutput(*train_motion_module(request, layout, domain_adapter, motion_module))
