"""TrainDomainAdapter."""

from comfy_api.latest import io

from ..host.training import TrainingRequest, run_stamp, train_domain_adapter
from ..training.cache.cached_clips import CachedClips
from ..training.settings import TrainingSettings
from .sockets import TRAINING_CATEGORY
from .training_inputs import loss_output, rank_input, shared_inputs, vae_input


class TrainDomainAdapter(io.ComfyNode):
    """Stage 1: the look of the clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_TrainDomainAdapter",
            display_name="Train Domain Adapter",
            category=TRAINING_CATEGORY,
            description="Stage 1 of 3. Trains a LoRA of the base model on single frames of the clips, so that their "
            "look (compression, watermarks, camera) is not learned as motion. Stopped, it goes on where it was.",
            search_aliases=["AnimateDiff training", "domain adapter LoRA", "v3_sd15_adapter"],
            inputs=[*shared_inputs("domain_adapter"), rank_input(128), vae_input()],
            outputs=[
                io.LoraModel.Output(
                    display_name="domain_adapter", tooltip="Goes to the other stages, or to Save Domain Adapter."
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
        rank: int,
        vae: io.Vae.Type | None = None,
    ) -> io.NodeOutput:
        request = TrainingRequest(model, cached_clips, settings, run_name, vae, cls.hidden.unique_id)
        return io.NodeOutput(*train_domain_adapter(request, rank))
