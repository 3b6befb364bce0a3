"""What InspectMotionFile says of the files in the three folders."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from motiongraft.core.errors import CheckpointError
from motiongraft.core.tensor_files import write_tensor_file
from motiongraft.motion_modules.load import saved_form
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders
from motiongraft.tests.helpers.published_files import narrowed, random_tensors, read_published
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter, write_motion_lora

pytestmark = pytest.mark.host


@pytest.fixture
def folders(host, tmp_path, monkeypatch):
    """Model folders with a module of each base, a MotionLoRA, an adapter and a file of something else."""
    folders = empty_model_folders(host, tmp_path, monkeypatch)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    modules = folders["animatediff_models"]
    for generation in ("v1", "v3", "sdxl-beta"):
        write_tensor_file(modules / f"{generation}.safetensors", *saved_form(random_module(toy_spec(generation))))
    torch.save(random_tensors(narrowed(read_published("pia"))), modules / "pia.ckpt")
    write_motion_lora(folders["animatediff_motion_lora"] / "zoom.safetensors", middle=True)
    write_domain_adapter(folders["loras"] / "adapter.safetensors")
    write_tensor_file(folders["loras"] / "vae.safetensors", {"decoder.conv_in.weight": torch.zeros(1)}, {})
    (folders["loras"] / "broken.safetensors").write_bytes(b"nothing")
    return folders


@pytest.fixture
def inspection(folders):
    from motiongraft.host import inspection

    return inspection


def test_every_file_of_the_three_folders_is_listed_once(inspection):
    listed = inspection.list_motion_files()
    assert sorted(listed) == sorted({*listed})
    assert {"animatediff_models/pia.ckpt", "animatediff_motion_lora/zoom.safetensors", "loras/vae.safetensors"} <= {
        *listed
    }


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("animatediff_models/v1.safetensors", ["a motion module", "generation v1, for SD 1.5", "up to 24 frames"]),
        ("animatediff_models/v1.safetensors", ["the base's over all frames", "noise schedule animatediff"]),
        ("animatediff_models/v1.safetensors", ["MotionLoRAs that fit: zoom.safetensors", "LoadMotionModule"]),
        ("animatediff_models/sdxl-beta.safetensors", ["for SDXL", "MotionLoRAs that fit: none"]),
        (
            "animatediff_models/v3.safetensors",
            ["domain adapters that fit: adapter.safetensors", "MotionGraft metadata"],
        ),
        ("animatediff_models/pia.ckpt", ["generation pia", "an input for an image", "8 heads"]),
        ("animatediff_motion_lora/zoom.safetensors", ["a MotionLoRA", "rank 4", "layout animatediff"]),
        ("animatediff_motion_lora/zoom.safetensors", ["motion modules that fit: pia.ckpt, v1.safetensors, v3.saf"]),
        ("loras/adapter.safetensors", ["a domain adapter", "for SD 1.5", "128 changes", "Apply Domain Adapter"]),
        ("loras/vae.safetensors", ["a VAE", "VAELoader"]),
    ],
)
def test_a_file_is_described_in_words(inspection, file, words):
    report = inspection.inspect_motion_file(file)
    assert [word for word in words if word not in report] == [], report


def test_a_damaged_file_is_refused_and_does_not_hide_the_others(inspection):
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        inspection.inspect_motion_file("loras/broken.safetensors")
    assert "adapter.safetensors" in inspection.inspect_motion_file("animatediff_models/v3.safetensors")


@pytest.mark.parametrize("listed", ["checkpoints/x.safetensors", "loras/../../secret", "loras", ""])
def test_nothing_outside_the_folders_is_opened(inspection, listed):
    with pytest.raises(CheckpointError):
        inspection.inspect_motion_file(listed)


def test_a_new_file_changes_the_stamp(inspection, folders):
    before = inspection.motion_file_stamp("animatediff_models/v3.safetensors")
    assert inspection.motion_file_stamp("animatediff_models/v3.safetensors") == before
    shutil.copy(folders["loras"] / "adapter.safetensors", folders["loras"] / "another.safetensors")
    folders_of_host = inspection.folder_paths
    folders_of_host.filename_list_cache.clear()
    assert inspection.motion_file_stamp("animatediff_models/v3.safetensors") != before


def test_looking_for_what_fits_logs_nothing_of_the_other_files(inspection, caplog):
    with caplog.at_level("INFO"):
        inspection.inspect_motion_file("animatediff_motion_lora/zoom.safetensors")
    assert "because" not in caplog.text


def test_the_node_gives_the_report_and_shows_it(inspection, monkeypatch):
    from motiongraft.nodes.inspect_motion_file import InspectMotionFile

    monkeypatch.setattr(InspectMotionFile, "hidden", SimpleNamespace(unique_id=None))

    output = InspectMotionFile.execute("loras/adapter.safetensors")
    assert "a domain adapter" in output.args[0]
    assert output.ui is not None
