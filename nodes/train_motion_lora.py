"""TrainMotionLoRA."""

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..host.motion_modules import LoadedMotionModule
from ..host.training import TrainingRequest, run_stamp, train_motion_lora
from ..training.cache.cached_clips import CachedClips
from ..training.settings import TrainingSettings
from .sockets import TRAINING_CATEGORY, MotionLoRASocket, MotionModuleSocket
from .training_inputs import adapter_input, loss_output, rank_input, shared_inputs, vae_input


class TrainMotionLoRA(io.ComfyNode):
    """Stage 3: one camera motion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_TrainMotionLoRA",
            display_name="Train MotionLoRA",
            category=TRAINING_CATEGORY,
            description="Stage 3 of 3. Trains a small addition to a motion module on 20 to 50 clips of one motion, "
            "such as a camera that zooms in. Stopped, it goes on where it was.",
            search_aliases=["MotionDirector", "ADMD", "camera motion training", "AnimateDiff training"],
            inputs=[
                *shared_inputs("motion_lora")[:1],
                MotionModuleSocket.Input(
                    "motion_module", tooltip="The motion module that the MotionLoRA is for; it is not changed."
                ),
                *shared_inputs("motion_lora")[1:],
                rank_input(64),
                adapter_input(),
                vae_input(),
            ],
            outputs=[
                MotionLoRASocket.Output(
                    display_name="motion_lora", tooltip="Goes to `lora` of ApplyMotionLoRA, or to Save MotionLoRA."
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
        motion_module: LoadedMotionModule,
        cached_clips: CachedClips,
        settings: TrainingSettings,
        run_name: str,
        rank: int,
        domain_adapter: Mapping[str, Tensor] | None = None,
        vae: io.Vae.Type | None = None,
    ) -> io.NodeOutput:
        request = TrainingRequest(model, cached_clips, settings, run_name, vae, cls.hidden.unique_id)
        return io.NodeOutput(*train_motion_lora(request, motion_module, rank, domain_adapter))
