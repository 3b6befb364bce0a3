"""Draws damaged files."""

from typing import Any

from hypothesis import strategies as st

from motiongraft.core.diffusers_folders import PEFT_HEADER
from motiongraft.tests.helpers.published_files import published_files

from .byte_changes import BYTES
from .case import FORMS, Case, Change
from .header_changes import BOTTOMLESS, DEEP, HUGE_NUMBER, INFINITE, LONG_NUMBER
from .pickle_changes import PICKLES
from .tensor_changes import DTYPES, NAMES, SHAPES, VALUES

HEAD = 4000
"""Bytes at either end of a file where most of what is not weights stands."""
MAX_CHANGES = 4

_WHERE = st.integers(0, 2000)
_POSITIONS = st.integers(0, HEAD) | st.integers(-HEAD, -1) | st.integers(0, 10**6)
_NUMBERS = (0, -1, 1, 2, 8, 10**9, -(10**9), 2**63, 2**64 - 1, 10**30, 1.5, 1e308, float("nan"), float("inf"))
_ODD = (None, True, False, "", "8", "x" * 10_000, [], {}, [8, 8], [8] * 1000, [[0]], {"a": {}})
_RAW = (DEEP, BOTTOMLESS, LONG_NUMBER, HUGE_NUMBER, INFINITE, [DEEP, DEEP], {"a": DEEP})
_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_JSON = st.sampled_from((*_NUMBERS, *_ODD, *_RAW)) | _ANY_JSON
_DTYPES = ("F4", "F6_E2M3", "F8_E8M0", "C64", "I64", "U64", "BF16", "F99")
_SIZES = ([2**63], [-1], [0, 2**63], [0, 2**64 - 1], [2**62, 0], [1] * 70, [0, 4], [4, 0], [1.5], ["1"], [[1]])
_SPEC = (
    *("generation", "num_heads", "trained_frames", "beta_schedule", "base_norms_over_frames", "layers_per_block"),
    *("num_attention_blocks", "image_channels", "motion_norm_over_frames", "num_positions", "middle_channels"),
)
_CONFIG = (
    *("motion_num_attention_heads", "motion_max_seq_length", "motion_norm_num_groups", "conv_in_channels"),
    "config",
)
_PEFT = ("lora_alpha", "unet.lora_alpha", "r", "use_dora", "use_rslora", "alpha_pattern")


def _changes(target: str, what: st.SearchStrategy[Any], where: st.SearchStrategy[int] = _WHERE) -> Any:
    return st.builds(Change, st.just(target), where, what)


def _changes_of_some(target: str, what: st.SearchStrategy[Any]) -> Any:
    return st.builds(Change, st.just(target), _WHERE, what, st.booleans())


def _set(target: str, keys: tuple[str, ...], values: st.SearchStrategy[Any] = _JSON) -> Any:
    return _changes(target, st.tuples(st.sampled_from(keys), values))


_TENSORS = st.one_of(
    _changes_of_some("name", st.sampled_from(list(NAMES))),
    _changes_of_some("name", st.sampled_from(list(NAMES)) | st.text(max_size=20)),
    _changes_of_some("double", st.sampled_from(list(NAMES))),
    _changes("drop", st.none()),
    _changes_of_some("shape", st.sampled_from(list(SHAPES)) | st.lists(st.integers(0, 33), max_size=3).map(tuple)),
    _changes_of_some("type", st.sampled_from(DTYPES)),
    _changes_of_some("values", st.sampled_from(VALUES)),
)
_SPEC_CHANGES = _set("spec", _SPEC)
_FORMS = {
    "safetensors": st.one_of(
        _set("header", ("dtype", "shape", "data_offsets", "entry", "twice", "more"), _JSON),
        _set("header", ("dtype", "shape", "data_offsets"), st.sampled_from((*_DTYPES, *_SIZES))),
        _changes("length", st.sampled_from((0, 1, 7, 100, 10**8, 2**63, 2**64 - 1))),
        _set("metadata", ("motiongraft", PEFT_HEADER, "format", "__metadata__")),
        _set("ours", ("kind", "spec", "base", "rank", "training")),
        _set("peft", _PEFT),
        _SPEC_CHANGES,
    ),
    "zip": _changes("pickle", st.sampled_from(list(PICKLES)))
    | _changes("opcodes", st.sampled_from(list(BYTES)), _POSITIONS),
    "legacy": _changes("pickle", st.sampled_from(list(PICKLES))),
    "diffusers": _set("config", _CONFIG) | _SPEC_CHANGES,
    "peft": _set("config", (*_PEFT, "config")),
}
_BYTES = _changes("bytes", st.sampled_from(list(BYTES)), _POSITIONS)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any published file in any form, with some changes of what it says, and now and then of its bytes."""
    form = draw(st.sampled_from(FORMS))
    changes = draw(st.lists(_TENSORS | _TENSORS | _FORMS[form], max_size=MAX_CHANGES))
    if draw(st.integers(0, 3)) == 0:
        changes += draw(st.lists(_BYTES, min_size=1, max_size=2))
    return Case(draw(st.sampled_from(published_files())), form, draw(st.booleans()), tuple(changes))
