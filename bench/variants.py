"""The same weights in each engine: ComfyUI alone, MotionGraft, AnimateDiff-Evolved."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
from comfy.model_patcher import ModelPatcher

from ..core.errors import SettingsError
from ..host.inflate import inflate_model
from ..host.motion_modules import load_motion_module
from .random_models import random_base, write_motion_module
from .settings import OURS, PLAIN, Settings

ADE_PACKAGE = "animatediff_evolved"
ADE_FOLDER = "animatediff_models"


def build_variants(names: Sequence[str], settings: Settings, weights: Path) -> dict[str, ModelPatcher]:
    """A model for each name, all around one base model; motion weights come from files in the folder `weights`."""
    base = random_base(settings)
    models: dict[str, ModelPatcher] = {}
    for name in names:
        engine, _, generation = name.partition("-")
        if engine == PLAIN:
            models[name] = base
            continue
        file = write_motion_module(weights, generation, settings)
        models[name] = inflate(base, file) if engine == OURS else inflate_with_ade(base, file, settings.ade)
    return models


def inflate(base: ModelPatcher, file: Path) -> ModelPatcher:
    """The base model as our nodes LoadMotionModule and InflateModel make it."""
    return inflate_model(base, load_motion_module(file), "auto")


def inflate_with_ade(base: ModelPatcher, file: Path, checkout: Path | None) -> ModelPatcher:
    """The base model as the nodes Load AnimateDiff Model, Apply AnimateDiff Model and Use Evolved Sampling make it."""
    assert checkout is not None
    folder_paths.add_model_folder_path(ADE_FOLDER, str(file.parent))
    nodes: dict[str, Any] = import_ade(checkout).NODE_CLASS_MAPPINGS
    (module,) = nodes["ADE_LoadAnimateDiffModel"]().load_motion_model(file.name)
    (modules,) = nodes["ADE_ApplyAnimateDiffModelSimple"]().apply_motion_model(module)
    (model,) = nodes["ADE_UseEvolvedSampling"]().use_evolved_sampling(base, "autoselect", modules)
    return model


def import_ade(checkout: Path) -> ModuleType:
    """AnimateDiff-Evolved as a package, from any folder.

    Raises: SettingsError if the folder does not hold it.
    """
    if ADE_PACKAGE in sys.modules:
        return sys.modules[ADE_PACKAGE]
    if not (checkout / "animatediff" / "nodes_gen2.py").is_file():
        raise SettingsError(f"expected a checkout of AnimateDiff-Evolved, found {checkout}. Give its folder to --ade.")
    spec = importlib.util.spec_from_file_location(
        ADE_PACKAGE, checkout / "__init__.py", submodule_search_locations=[str(checkout)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[ADE_PACKAGE] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package
