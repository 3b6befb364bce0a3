"""The types that travel between MotionGraft's nodes, and the category they are listed under."""

from comfy_api.latest import io

CATEGORY = "MotionGraft"

MotionModuleSocket = io.Custom("MOTION_MODULE")
MotionLoRASocket = io.Custom("MOTION_LORA")
