"""CacheTrainingClips."""

from typing import Any

from comfy_api.latest import io

from ..host.caching import cache_stamp, cache_training_clips
from ..training.data.clips import TrainingClips
from .sockets import TRAINING_CATEGORY, CachedClipsSocket, TrainingClipsSocket


class CacheTrainingClips(io.ComfyNode):
    """Clips and captions, encoded once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionGraft_CacheTrainingClips",
            display_name="Cache Training Clips",
            category=TRAINING_CATEGORY,
            description="Encodes clips with the VAE and captions with CLIP, once, into output/motiongraft/caches. It "
            "goes on where it was interrupted, and later encodes only what is new or has changed.",
            search_aliases=["latent cache", "encode dataset", "AnimateDiff training", "precompute latents"],
            inputs=[
                TrainingClipsSocket.Input(
                    "clips",
                    tooltip="From Load Training Clips or Camera Motion Clips. Clips that are no longer among them "
                    "leave the cache.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of the base model (SD 1.5 or SDXL). Another one needs another cache."
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP of the base model. LoRAs on it and CLIP Set Last Layer count as another CLIP, "
                    "which needs another cache. Captions are taken literally, brackets and all.",
                ),
                io.String.Input(
                    "cache_name",
                    default="my_clips",
                    tooltip="Folder under output/motiongraft/caches, one for each set of clips: letters, digits, "
                    "space, dot, - and _.",
                ),
            ],
            outputs=[
                CachedClipsSocket.Output(display_name="cached_clips", tooltip="Goes to the training nodes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, cache_name: str = "", **_: object) -> str:
        return cache_stamp(cache_name)

    @classmethod
    def execute(cls, clips: TrainingClips, vae: Any, clip: Any, cache_name: str) -> io.NodeOutput:
        return io.NodeOutput(cache_training_clips(clips, vae, clip, cache_name))
