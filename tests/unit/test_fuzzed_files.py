"""Files that are damaged, or made to do harm: loaded or refused in words, soon, in little memory, and never run."""

import json
import re
import struct
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save
from torch import Tensor

from motiongraft.core.errors import CheckpointError
from motiongraft.core.tensor_files import TensorFile
from motiongraft.motion_modules.keys import POSITION_TABLE
from motiongraft.motion_modules.load import read_motion_file
from motiongraft.motion_modules.module import MotionModule
from motiongraft.motion_modules.spec_reader import MAX_POSITIONS
from motiongraft.tests.helpers.damaged_files.bounds import LOADERS, MAX_MESSAGE, check, errors_of, outcomes
from motiongraft.tests.helpers.damaged_files.case import FORMS, Case, Change
from motiongraft.tests.helpers.damaged_files.header_changes import HUGE_NUMBER, INFINITE
from motiongraft.tests.helpers.damaged_files.pickle_changes import CODE, saved, with_edited_pickle
from motiongraft.tests.helpers.damaged_files.small_files import small_tensors
from motiongraft.tests.helpers.damaged_files.strategies import cases
from motiongraft.tests.helpers.damaged_files.tensor_changes import PACKED
from motiongraft.tests.helpers.damaged_files.written import write_case
from motiongraft.tests.helpers.published_files import SPARSE_CONTROLS, published_files

MODULE, LORA, ADAPTER = "mm_sd_v15_v2", "v2_lora_ZoomIn", "v3_sd15_adapter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Room for one file after the other. What torch loads when it is first asked is loaded already."""
    folder = tmp_path_factory.mktemp("files")
    for base in (MODULE, LORA, ADAPTER):
        for form in FORMS:
            place = folder / f"{base}-{form}"
            place.mkdir()
            outcomes(write_case(Case(base, form), place))
    return folder


def check_case(folder: Path, case: Case) -> dict[str, object]:
    return check(folder, partial(write_case, case))


def fuzz(folder: Path, max_examples: int, derandomize: bool) -> None:
    loaded = set[str]()

    @settings(max_examples=max_examples, derandomize=derandomize, deadline=None)
    @given(case=cases())
    def is_loaded_or_refused(case: Case) -> None:
        found = check_case(folder, case)
        loaded.update(found.keys() - errors_of(found).keys())

    is_loaded_or_refused()
    assert loaded == LOADERS.keys()  # or nothing that is drawn gets far enough to tell anything


def test_every_file_is_loaded_or_refused(folder):
    fuzz(folder, 300, derandomize=True)


@pytest.mark.nightly
def test_each_of_ten_thousand_other_files_is_loaded_or_refused(folder):
    fuzz(folder, 10_000, derandomize=False)


@pytest.mark.parametrize("base", published_files())
def test_every_file_is_whole_before_it_is_changed(folder, base):
    for form in FORMS if base in (MODULE, LORA, ADAPTER) else FORMS[:1]:
        for ours in (False, True):
            found = check_case(folder, Case(base, form, ours))
            refused = errors_of(found).keys()
            of_other_kinds = refused - {"domain adapter for the host"}  # loader and report of each, one for SparseCtrl
            assert len(of_other_kinds) == (6 if base in SPARSE_CONTROLS else 5)


def once(target: str, what: object, where: int = 0) -> tuple[Change, ...]:
    return (Change(target, where, what),)


def throughout(target: str, what: object, where: int = 0) -> tuple[Change, ...]:
    return (Change(target, where, what, every=True),)


HEADS = "motion_num_attention_heads"
DIFFUSERS = "animatediff-motion-adapter-v1-5-2"
ATTENTION = 3  # the fourth number of a name of diffusers
NOT_ONE, NOT_PLAIN, TOO_LARGE = "of another design", "expected plain tensors", "as large as its tensors"
REFUSED = {
    "a long number of a level": (Case(MODULE, "zip", changes=throughout("name", "long number")), "layout"),
    "a long number of an attention": (
        Case(DIFFUSERS, "diffusers", changes=throughout("name", "long number", ATTENTION)),
        NOT_ONE,
    ),
    "a norm without channels": (Case(MODULE, "safetensors", changes=once("shape", "empty")), r"shape \[0\]"),
    "4-bit floats": (Case(MODULE, "safetensors", changes=throughout("type", "float4_e2m1fn_x2")), "type float4"),
    "4-bit factors": (Case(LORA, "safetensors", changes=throughout("type", "float4_e2m1fn_x2")), r"down \[r, in\]"),
    "a prefix and no layer": (
        Case("motion_lora_peft", "safetensors", changes=once("name", "unet without a layer")),
        "other names",
    ),
    "an alpha that is no float": (
        Case("motion_lora_peft", "safetensors", changes=once("peft", ("unet.lora_alpha", HUGE_NUMBER))),
        "finite lora_alpha",
    ),
    "an infinite alpha": (
        Case("motion_lora_peft", "safetensors", changes=once("peft", ("unet.lora_alpha", INFINITE))),
        "finite lora_alpha",
    ),
    "10**9 heads": (Case(DIFFUSERS, "diffusers", changes=once("config", (HEADS, 10**9))), "1000000000 heads"),
    "hidden methods": (Case(MODULE, "zip", changes=once("pickle", "attributes")), NOT_ONE),
    "tensors expanded from one number": (Case(ADAPTER, "zip", changes=once("pickle", "expanded")), TOO_LARGE),
    "a tensor that is made": (Case(ADAPTER, "legacy", changes=once("pickle", "lazy")), TOO_LARGE),
    "a sparse tensor": (Case(LORA, "zip", changes=once("pickle", "sparse")), NOT_PLAIN),
    "a quantised tensor": (Case(LORA, "legacy", changes=once("pickle", "quantised")), NOT_PLAIN),
    "a tensor without values": (Case(MODULE, "zip", changes=once("pickle", "meta")), NOT_PLAIN),
    "no values at all": (Case(MODULE, "legacy", changes=once("pickle", "all meta")), NOT_PLAIN),
}


@pytest.mark.parametrize(("case", "words"), REFUSED.values(), ids=REFUSED)
def test_what_was_once_found_is_refused(folder, case, words):
    kind = {LORA: "motion LoRA", "motion_lora_peft": "motion LoRA"}.get(case.base, "motion module")
    errors = errors_of(check_case(folder, case))
    assert re.search(words, errors.get("file") or errors[kind])


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("what", CODE)
def test_code_is_refused_as_code(folder, form, what):
    found = check_case(folder, Case(MODULE, form, changes=once("pickle", what)))
    assert "code that would run" in errors_of(found)["file"]


def test_parameters_are_read_as_tensors(folder):
    found = check_case(folder, Case(MODULE, "zip", changes=once("pickle", "gradient")))
    assert isinstance(found["motion module"], MotionModule)
    found = check_case(folder, Case("motion_lora_kohya", "legacy", changes=once("pickle", "gradient")))
    assert "motion LoRA" not in errors_of(found)


def nested(depth: int) -> object:
    """Lists in lists that Python can neither compare nor show."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def test_heads_in_lists_of_lists_are_refused():
    for heads in (nested(5000), [nested(5000), nested(5000)], [8] * 10_000 + [4]):
        file = TensorFile(Path("deep"), small_tensors(DIFFUSERS), config={HEADS: heads})
        with pytest.raises(CheckpointError, match="expected one number of heads") as refused:
            read_motion_file(file)
        assert len(str(refused.value)) < MAX_MESSAGE


def check_bytes(folder: Path, name: str, stored: bytes) -> dict[str, object]:
    def write(place: Path) -> Path:
        (place / name).write_bytes(stored)
        return place / name

    return check(folder, write)


def check_tensors(folder: Path, tensors: dict[str, Tensor]) -> dict[str, object]:
    return check_bytes(folder, "a.safetensors", save(tensors))


@pytest.mark.parametrize("alpha", [torch.tensor(1 + 2j), torch.zeros(1, dtype=torch.uint8).view(PACKED)])
def test_an_alpha_that_is_no_number_is_refused(folder, alpha):
    tensors = small_tensors("motion_lora_kohya")
    name = next(name for name in tensors if name.endswith(".alpha"))
    assert "down [r, in]" in errors_of(check_tensors(folder, {**tensors, name: alpha}))["motion LoRA"]


def test_a_module_that_its_numbers_make_huge_is_refused(folder):
    site = "{}.{}.motion_modules.{}.temporal_transformer"
    names = [
        f"{site}.norm.weight".format(part, level, 0) for part in ("down_blocks", "up_blocks") for level in range(300)
    ]
    names += [f"{site}.norm.weight".format("down_blocks", 0, layer) for layer in range(300)]
    attention = f"{site}.transformer_blocks.0.attention_blocks.{{}}.to_q.weight"
    names += [attention.format("down_blocks", 0, 0, block) for block in range(300)]
    shapes = {name: (32,) if name.endswith("norm.weight") else (32, 32) for name in names}
    found = check_tensors(folder, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert "expected 180300 temporal transformers of 300 attentions" in errors_of(found)["motion module"]


def test_one_long_table_does_not_make_all_others_as_long(folder):
    tensors = {name: tensor for name, tensor in small_tensors(MODULE).items() if not name.endswith(POSITION_TABLE)}
    first = next(name for name in small_tensors(MODULE) if name.endswith(POSITION_TABLE))
    tensors[first] = torch.zeros(1, MAX_POSITIONS, 32)
    assert "motion module" not in errors_of(check_tensors(folder, tensors))
    tensors[first] = torch.zeros(1, MAX_POSITIONS + 1, 32)
    assert "7 tensors are missing" in errors_of(check_tensors(folder, tensors))["motion module"]


def test_tables_without_channels_are_refused(folder):
    tensors = small_tensors(MODULE)
    tables = {name: torch.zeros(1, 2**62, 0) for name in tensors if name.endswith(POSITION_TABLE)}
    assert "shape [1, 4611686018427387904, 0]" in errors_of(check_tensors(folder, tensors | tables))["motion module"]


def test_many_strangers_take_no_longer_each(folder):
    strangers = {f"mid_block.resnets.0.{number}": torch.zeros(1) for number in range(6000)}
    layers = {f"mid_block.motion_modules.0.temporal_transformer.{number}": torch.zeros(1) for number in range(6000)}
    whole = small_tensors("official_trainer_checkpoint")
    found = check_tensors(folder, {**whole, **strangers, **layers})
    assert "expected floating-point weights in AnimateDiff's shapes" in errors_of(found)["motion module"]


def test_a_name_of_many_prefixes_is_read_once(folder):
    tensors = dict(small_tensors(MODULE))
    name, tensor = tensors.popitem()
    found = check_tensors(folder, {**tensors, "module." * 100_000 + name: tensor})
    assert "motion module" not in errors_of(found)


def test_a_shape_that_no_tensor_has_is_refused(folder):
    header = json.dumps({"x": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}).encode()
    found = check_bytes(folder, "a.safetensors", struct.pack("<Q", len(header)) + header)
    assert "expected a whole safetensors file" in errors_of(found)["file"]


def test_a_pickle_that_was_packed_is_not_unpacked(folder):
    stored = saved({"x": torch.ones(4)})
    packed = with_edited_pickle(stored, lambda body: body[:2] + b"]" * 10**7 + body[2:], zipfile.ZIP_DEFLATED)
    assert "1 that are compressed" in errors_of(check_bytes(folder, "a.ckpt", packed))["file"]
