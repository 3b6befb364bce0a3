"""The temporal transformer as the paper describes it, axis by axis, in float64 and without any cleverness.

Source: arXiv 2307.04725 section 4.2; names and constants of guoyww/AnimateDiff motion_module.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_transformer(
    weights: dict[str, Tensor], x: Tensor, num_frames: int, num_heads: int, norm_over_frames: bool = False
) -> Tensor:
    """Shapes: x `(b f) c h w` -> `(b f) c h w`, float64; weights of one TemporalTransformer."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    clips = x.double().unflatten(0, (-1, num_frames))
    b, f, c, height, width = clips.shape
    if norm_over_frames:
        h = F.group_norm(clips.transpose(1, 2), 32, w["norm.weight"], w["norm.bias"], 1e-6).transpose(1, 2)
    else:
        h = F.group_norm(clips.flatten(0, 1), 32, w["norm.weight"], w["norm.bias"], 1e-6).view_as(clips)
    h = h.permute(0, 3, 4, 1, 2).reshape(b * height * width, f, c)
    h = F.linear(h, w["proj_in.weight"], w["proj_in.bias"])
    block = "transformer_blocks.0"
    count = sum(name.startswith(f"{block}.norms.") and name.endswith("weight") for name in w)
    for i in range(count):
        attention = f"{block}.attention_blocks.{i}"
        n = F.layer_norm(h, (c,), w[f"{block}.norms.{i}.weight"], w[f"{block}.norms.{i}.bias"])
        n = n + w[f"{attention}.pos_encoder.pe"][:, :f]
        q, k, v = F.linear(n, w[f"{attention}.to_qkv.weight"]).chunk(3, dim=-1)
        h = h + F.linear(
            _attend(q, k, v, num_heads), w[f"{attention}.to_out.0.weight"], w[f"{attention}.to_out.0.bias"]
        )
    n = F.layer_norm(h, (c,), w[f"{block}.ff_norm.weight"], w[f"{block}.ff_norm.bias"])
    value, gate = F.linear(n, w[f"{block}.ff.net.0.proj.weight"], w[f"{block}.ff.net.0.proj.bias"]).chunk(2, dim=-1)
    h = h + F.linear(value * F.gelu(gate), w[f"{block}.ff.net.2.weight"], w[f"{block}.ff.net.2.bias"])
    h = F.linear(h, w["proj_out.weight"], w["proj_out.bias"])
    h = h.view(b, height, width, f, c).permute(0, 3, 4, 1, 2)
    return (clips + h).flatten(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)
