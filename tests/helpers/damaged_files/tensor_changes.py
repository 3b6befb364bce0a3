"""What can be wrong with names, shapes, types and values. Each change gives other content than it takes."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .case import Change

Content = dict[str, Tensor]
VALUES = (float("nan"), float("inf"), float("-inf"), 1e38, 0.0)
DTYPES = (
    *("int8", "uint8", "bool", "int64", "uint64", "float16", "bfloat16", "float64", "complex64", "float8_e4m3fn"),
    *("float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"),
)
PACKED = torch.float4_e2m1fn_x2
FILLABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MANY = 3000


def _with_number(name: str, where: int, text: str) -> str:
    """The name with one of its numbers replaced."""
    numbers = list(re.finditer(r"\d+", name))
    if not numbers:
        return name + text
    start, end = numbers[where % len(numbers)].span()
    return name[:start] + text + name[end:]


def _without_segment(name: str, where: int) -> str:
    parts = name.split(".")
    del parts[where % len(parts)]
    return ".".join(parts)


def _with_swapped_segments(name: str, where: int) -> str:
    parts = name.split(".")
    first, second = where % len(parts), (where + 1) % len(parts)
    parts[first], parts[second] = parts[second], parts[first]
    return ".".join(parts)


def _without_layer(name: str) -> str:
    return "." + ".".join(name.split(".")[-2:])


NAMES: Mapping[str, Callable[[str, int], str]] = {
    "next number": lambda name, where: _with_number(name, where, "1"),
    "large number": lambda name, where: _with_number(name, where, "1000000000"),
    "long number": lambda name, where: _with_number(name, where, "1" * 5000),
    "negative number": lambda name, where: _with_number(name, where, "-1"),
    "Arabic number": lambda name, where: _with_number(name, where, "٣"),
    "superscript": lambda name, where: _with_number(name, where, "²"),
    "no number": lambda name, where: _with_number(name, where, ""),
    "without a segment": _without_segment,
    "swapped segments": _with_swapped_segments,
    "two dots": lambda name, where: name.replace(".", "..", 1 + where % 3),
    "nothing": lambda name, where: "",
    "no layer": lambda name, where: _without_layer(name),
    "unet without a layer": lambda name, where: f"unet.{_without_layer(name)}",
    "module": lambda name, where: f"module.{name}",
    "unet": lambda name, where: f"unet.{name}",
    "kohya": lambda name, where: f"lora_unet_{name.replace('.', '_')}.lora_down.weight",
    "many prefixes": lambda name, where: "module." * MANY + name,
    "very long": lambda name, where: name + "x" * MANY,
    "many dots": lambda name, where: name + "." * MANY,
    "many words": lambda name, where: f"lora_unet_{'to_q_' * MANY}to_k.alpha",
    "new line": lambda name, where: f"{name}\n",
    "broken line": lambda name, where: name.replace(".", "\n.", 1),
    "upper case": lambda name, where: name.upper(),
    "HotshotXL": lambda name, where: name.replace("motion_modules", "temporal_attentions"),
    "diffusers": lambda name, where: name.replace("temporal_transformer.", "").replace("attention_blocks.0", "attn1"),
    "down": lambda name, where: f"{name.removesuffix('.weight')}.lora_down.weight",
    "processor": lambda name, where: f"{name.removesuffix('.weight')}.processor.to_q_lora.up.weight",
    "peft": lambda name, where: f"{name.removesuffix('.weight')}.lora_A.default.weight",
    "alpha": lambda name, where: f"{name.rpartition('.')[0]}.alpha",
    "DoRA": lambda name, where: f"{name}.dora_scale",
    "fused": lambda name, where: name.replace("to_q.", "to_qkv."),
    "position table": lambda name, where: f"{name.rpartition('.')[0]}.pos_encoder.pe",
    "norm": lambda name, where: f"{name.partition('.temporal')[0]}.temporal_transformer.norm.weight",
    "input": lambda name, where: "conv_in.weight",
    "base layer": lambda name, where: "down_blocks.0.resnets.0.conv1.weight",
    "img_encoder": lambda name, where: f"img_encoder.{name}",
}
SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda tensor: tensor.flatten()[:0],
    "no rows": lambda tensor: tensor[:0] if tensor.ndim else tensor,
    "no columns": lambda tensor: tensor[..., :0] if tensor.ndim else tensor,
    "scalar": lambda tensor: torch.zeros((), dtype=tensor.dtype),
    "five dimensions": lambda tensor: tensor.reshape(1, 1, 1, 1, -1),
    "flat": lambda tensor: tensor.flatten(),
    "column": lambda tensor: tensor[..., None],
    "transposed": lambda tensor: tensor.mT.contiguous() if tensor.ndim > 1 else tensor,
    "one row": lambda tensor: tensor[:1].clone() if tensor.ndim else tensor,
    "doubled": lambda tensor: torch.cat([tensor, tensor]) if tensor.ndim and tensor.dtype != PACKED else tensor,
    "very long": lambda tensor: torch.zeros(1, 10**12, 0),
}


def _chosen(content: Content, change: Change) -> set[str]:
    names = list(content)
    return set(names) if change.every or not names else {names[change.where % len(names)]}


def _rename(content: Content, change: Change) -> Content:
    """By an edit of NAMES, or to any text."""
    edit = NAMES.get(change.what, lambda name, where: change.what)
    chosen = _chosen(content, change)
    return {edit(name, change.where) if name in chosen else name: tensor for name, tensor in content.items()}


def _double(content: Content, change: Change) -> Content:
    return content | {NAMES[change.what](name, change.where): content[name] for name in _chosen(content, change)}


def _drop(content: Content, change: Change) -> Content:
    return {name: tensor for name, tensor in content.items() if name not in _chosen(content, change)}


def _reshape(content: Content, change: Change) -> Content:
    """By an edit of SHAPES, or to any shape."""
    edit = SHAPES[change.what] if isinstance(change.what, str) else lambda _: torch.zeros(change.what)
    return content | {name: edit(content[name]) for name in _chosen(content, change)}


def _retype(content: Content, change: Change) -> Content:
    return content | {name: _as_type(content[name], getattr(torch, change.what)) for name in _chosen(content, change)}


def _as_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == PACKED:
        return torch.zeros(tensor.shape, dtype=torch.uint8).view(dtype) if tensor.ndim else tensor
    if tensor.dtype == PACKED:
        tensor = tensor.view(torch.uint8)
    return (tensor.real if tensor.is_complex() and not dtype.is_complex else tensor).to(dtype)


def _fill(content: Content, change: Change) -> Content:
    def filled(tensor: Tensor) -> Tensor:
        if tensor.dtype not in FILLABLE or not tensor.numel():
            return tensor
        flat = tensor.flatten().clone()
        flat[change.where % len(flat)] = change.what
        return flat.reshape(tensor.shape)

    return content | {name: filled(content[name]) for name in _chosen(content, change)}


EDITS: Mapping[str, Callable[[Content, Change], Content]] = {
    "name": _rename,
    "double": _double,
    "drop": _drop,
    "shape": _reshape,
    "type": _retype,
    "values": _fill,
}
