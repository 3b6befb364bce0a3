"""The types that travel between MotionGraft's nodes, and the category they are listed under."""

from comfy_api.latest import io

CATEGORY = "MotionGraft"
TRAINING_CATEGORY = f"{CATEGORY}/Train"

MotionModuleSocket = io.Custom("MOTION_MODULE")
MotionControlSocket = io.Custom("MOTION_CONTROL")
MotionLoRASocket = io.Custom("MOTION_LORA")
TrainingClipsSocket = io.Custom("TRAINING_CLIPS")
CachedClipsSocket = io.Custom("CACHED_CLIPS")
TrainingSettingsSocket = io.Custom("TRAINING_SETTINGS")
