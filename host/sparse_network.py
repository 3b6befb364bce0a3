"""SparseCtrl's network: ComfyUI's own ControlNet, with a motion module in its down path."""

from typing import Any

import torch
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential, timestep_embedding
from torch import Tensor

from ..motion_modules.adjustments import PLAIN, Adjustments
from ..motion_modules.keys import LATENT_CHANNELS
from ..motion_modules.module import MotionModule
from ..motion_modules.sparse_control import MASK_CHANNELS, PIXEL_CHANNELS
from .unet import block_of


class SparseControlNetwork(ControlNet):
    """A ControlNet that sees sparse conditions alone, and the frames of a clip together.

    Source: arXiv 2311.16933 section 3.2; guoyww/AnimateDiff sparse_controlnet.py.
    """

    def __init__(self, motion: MotionModule, sees_latents: bool, operations: Any, **config: Any):
        channels = (LATENT_CHANNELS if sees_latents else PIXEL_CHANNELS) + MASK_CHANNELS
        super().__init__(hint_channels=channels, operations=operations, **config)
        self.sees_latents = sees_latents
        self.context_dim: int = config["context_dim"]
        if sees_latents:
            place = {name: config.get(name) for name in ("dtype", "device")}
            first = operations.conv_nd(2, channels, self.model_channels, 3, padding=1, **place)
            self.input_hint_block = TimestepEmbedSequential(first)
        self.motion = motion
        spec = motion.spec
        self.addresses = {block_of(address, spec.layers_per_block)[1]: address for address, _ in spec.sites()}

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor,
        num_frames: int,
        adjust: Adjustments = PLAIN,
        **_: Any,
    ) -> dict[str, list[Tensor]]:
        """What is added to the UNet's skip connections and to its middle block. Of the latents only the size counts.

        Shapes: x `(b f) 4 h w`, hint `(b f) c h' w'`, timesteps `(b f)`, context `(b f) n d`, with f = num_frames
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels, repeat_only=False).to(x.dtype))
        condition = self.input_hint_block(hint, emb, context)
        h = self.input_blocks[0](torch.zeros_like(x), emb, context) + condition
        skips = [self.zero_convs[0](h, emb, context)]
        for index in range(1, len(self.input_blocks)):
            h = self.input_blocks[index](h, emb, context)
            if index in self.addresses:
                h = self.motion(h, self.addresses[index], num_frames, adjust)
            skips.append(self.zero_convs[index](h, emb, context))
        h = self.middle_block(h, emb, context)
        return {"middle": [self.middle_block_out(h, emb, context)], "output": skips}
