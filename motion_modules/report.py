"""What a motion module's file is, in words."""

from collections.abc import Iterator

from ..core.tensor_files import TensorFile
from .generations import AUTO
from .load import MotionFile, check_tensors, read_motion_file
from .spec import MotionModuleSpec


def describe_motion_module(file: TensorFile, generation: str = AUTO) -> Iterator[str]:
    """What there is to say about a motion module, a sentence a line.

    Raises: CheckpointError if the file is damaged or not whole.
    """
    motion = read_motion_file(file, generation)
    check_tensors(motion.spec, motion.tensors, file.name)
    yield from _identity(motion)
    yield from _shape(motion.spec)
    yield from _training(motion.spec)


def _identity(motion: MotionFile) -> Iterator[str]:
    found, spec = motion.classification, motion.spec
    yield f"generation {spec.generation}, for {spec.base}, because {found.evidence}"
    if found.doubt:
        yield f"doubtful: {found.doubt}"
    yield f"layout of {motion.dialect.program}"
    if motion.num_base_tensors:
        yield f"{motion.num_base_tensors} tensors of a base UNet in the same file, which are left there"


def _shape(spec: MotionModuleSpec) -> Iterator[str]:
    widths = ", ".join(map(str, spec.down_channels))
    middle = "a middle block" if spec.middle_channels else "no middle block"
    yield f"{len(list(spec.sites()))} temporal transformers: widths {widths}, {middle}, {spec.num_heads} heads"
    if spec.image_channels:
        yield "an input for an image, which it needs: Condition On Image gives it one"


def _training(spec: MotionModuleSpec) -> Iterator[str]:
    yield f"up to {spec.num_positions} frames at once, trained on {spec.trained_frames}"
    yield f"noise schedule {spec.beta_schedule}"
    base = "all frames of a clip" if spec.base_norms_over_frames else "each frame"
    own = "all frames of a clip" if spec.motion_norm_over_frames else "each frame"
    yield f"norms: the base's over {base}, its own over {own}"
