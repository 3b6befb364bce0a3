"""Hashes of weights and of the patches on them, the same in every process and wherever ComfyUI keeps them just now."""

import hashlib
import numbers
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, types, shapes and bytes, whatever their order."""
    return _hash_of_tensors(tensors.items())


def fingerprint_module(module: nn.Module) -> str:
    """The sha256 of a module's weights and buffers, as it computes with them. Patches that are merged in count."""
    return _hash_of_tensors(_weights(module, {}))


def fingerprint_patches(patcher: ModelPatcher) -> str:
    """The sha256 of the patches on a model's weights: LoRAs, merges, their strengths. Functions count by name."""
    digest = hashlib.sha256()
    _add(digest, [patcher.patches, patcher.weight_wrapper_patches], ())
    return digest.hexdigest()


def fingerprint_patcher(patcher: ModelPatcher, unused: str | None = None) -> str:
    """The sha256 of a model's own weights and of the patches on them, whether or not they are merged in just now.

    Weights whose name ends in `unused` do not count: ComfyUI leaves what a file lacks to whatever is in memory.
    """
    originals = {name: entry.weight for name, entry in patcher.backup.items()}
    weights = _hash_of_tensors(
        (name, weight)
        for name, weight in _weights(patcher.model, originals)
        if unused is None or not name.endswith(unused)
    )
    return hashlib.sha256(f"{weights} {fingerprint_patches(patcher)}".encode()).hexdigest()


def _weights(module: nn.Module, originals: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Weights by name, `originals` in place of merged ones.

    ComfyUI may hold a weight in the type of its file until the model is first used; the type that it was built in,
    which ComfyUI notes on the layer, is the one that it computes with.
    """
    for name, weight in module.state_dict().items():
        owner, _, attribute = name.rpartition(".")
        try:
            dtype = getattr(module.get_submodule(owner), f"{attribute}_comfy_model_dtype", weight.dtype)
        except AttributeError:
            dtype = weight.dtype
        yield name, originals.get(name, weight).to(dtype)


def _hash_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    parts = sorted((name, _hash_of_tensor(tensor)) for name, tensor in tensors)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _hash_of_tensor(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if not tensor.is_meta:
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        data: Any = flat.view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()


def _add(digest: Any, value: object, above: tuple[int, ...]) -> None:
    """Add a value of a patch and all that it holds. `above` are the ids of what holds it, against endless rounds."""
    digest.update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    if id(value) in above:
        return
    above = (*above, id(value))
    if value is None or isinstance(value, str | bytes | numbers.Number | slice | torch.dtype):
        digest.update(repr(value).encode())
    elif isinstance(value, Tensor):
        digest.update(_hash_of_tensor(value).encode())
    elif isinstance(value, nn.Module):
        digest.update(fingerprint_module(value).encode())
    elif isinstance(value, ModelPatcher):
        digest.update(fingerprint_patcher(value).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _add(digest, key, above)
            _add(digest, value[key], above)
    elif isinstance(value, set | frozenset):
        for entry in sorted(map(repr, value)):
            digest.update(entry.encode())
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for entry in value:
            _add(digest, entry, above)
    elif isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    else:
        _add(digest, getattr(value, "__dict__", {}), above)
