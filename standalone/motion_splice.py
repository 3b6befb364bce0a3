"""The splice on a UNet of diffusers: forward hooks at the addresses at which the published code runs motion."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.errors import HostError, IncompatibleModelError
from ..motion_modules.frames import check_whole_clips
from ..motion_modules.mixed_precision import CastMotion
from ..motion_modules.module import MotionModule
from ..motion_modules.spec import Address, MotionModuleSpec


class MotionSplice:
    """A motion module in a UNet of one's own, until it is removed.

    Raises: IncompatibleModelError if the module was made for another base model.
    """

    def __init__(self, unet: nn.Module, module: MotionModule, name: str = ""):
        layers = find_layers(unet, module.spec, name or "the motion module")
        self.num_frames: int | None = None
        """Of each clip in the running call."""
        self._motion = CastMotion(module)
        self._handles: list[RemovableHandle] = [
            layer.register_forward_hook(partial(self._add_motion, address)) for address, layer in layers.items()
        ]
        for norm in _frame_wide_norms(unet) if module.spec.base_norms_over_frames else []:
            self._handles += [
                norm.register_forward_pre_hook(self._clips_apart),
                norm.register_forward_hook(self._frames_apart),
            ]

    @contextmanager
    def clips_of(self, num_frames: int | None) -> Iterator[None]:
        """Within it, the UNet runs on clips of so many frames."""
        before, self.num_frames = self.num_frames, num_frames
        try:
            yield
        finally:
            self.num_frames = before

    def remove(self) -> None:
        """Leave the UNet as it was found."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _frames(self, x: Tensor) -> int:
        if self.num_frames is None:
            raise HostError(
                "a UNet with motion was called outside of DiffusersDenoiser.predict, so its frames are unknown. "
                "Call predict, or remove the splice first."
            )
        check_whole_clips(x.shape[0], self.num_frames)
        return self.num_frames

    def _add_motion(self, address: Address, _: nn.Module, inputs: Any, output: Any) -> Any:
        """A spatial transformer gives a tuple, a ResBlock its features."""
        if isinstance(output, tuple):
            return (self._add_motion(address, _, inputs, output[0]), *output[1:])
        return self._motion(output, address, self._frames(output))

    def _clips_apart(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """For a v1 module: what a norm must see to take its statistics over all frames of a clip.

        Shapes: `(b f) c h w` -> `b c f h w`
        Source: guoyww/AnimateDiff resnet.py `ResnetBlock3D` with `use_inflated_groupnorm: false`.
        """
        frames = self._frames(inputs[0])
        return (inputs[0].unflatten(0, (-1, frames)).transpose(1, 2),)

    def _frames_apart(self, _: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Shapes: `b c f h w` -> `(b f) c h w`"""
        return output.transpose(1, 2).flatten(0, 1)


def find_layers(unet: Any, spec: MotionModuleSpec, name: str) -> dict[Address, nn.Module]:
    """The layer that each transformer of a motion module follows: a block's spatial transformer, else its ResBlock.

    Raises: IncompatibleModelError if the UNet has other levels, layers or widths.
    """
    _check_depth(unet, spec, name)
    found: dict[Address, nn.Module] = {}
    for address, channels in spec.sites():
        layer = _layer_at(unet, address)
        width = None if layer is None else _width(layer)
        if layer is None or width != channels:
            block = address.prefix.split(".motion_modules")[0]
            raise IncompatibleModelError(
                f"{name} is {channels} wide at {block}, this model's UNet has {width or 'no layer there'}. "
                "The motion module was made for another base model; choose one that fits."
            )
        found[address] = layer
    return found


def _check_depth(unet: Any, spec: MotionModuleSpec, name: str) -> None:
    expected = (len(spec.down_channels), len(spec.up_channels))
    levels = (len(unet.down_blocks), len(unet.up_blocks))
    layers = {len(block.resnets) for block in unet.down_blocks}
    if levels != expected or layers != {spec.layers_per_block}:
        raise IncompatibleModelError(
            f"{name} is for {spec.base}: {expected[0]} levels of {spec.layers_per_block} layers. This model's UNet has "
            f"{levels[0]} levels of {', '.join(map(str, sorted(layers)))}. "
            "Choose a motion module for this base model, or another checkpoint."
        )


def _layer_at(unet: Any, address: Address) -> Any:
    if address.part == "mid_block":
        block = unet.mid_block
    else:
        block = getattr(unet, address.part)[address.level]
    layers = getattr(block, "attentions", None) or block.resnets
    return layers[address.layer] if address.layer < len(layers) else None


def _width(layer: Any) -> int:
    """Of what a layer gives: a spatial transformer's width, or a ResBlock's."""
    return int(layer.conv2.out_channels if hasattr(layer, "conv2") else layer.in_channels)


def _frame_wide_norms(unet: Any) -> list[nn.Module]:
    """The norms of all ResBlocks, and the UNet's last one."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    resblocks = [resblock for block in blocks for resblock in block.resnets]
    return [norm for block in resblocks for norm in (block.norm1, block.norm2)] + [unet.conv_norm_out]
