"""The commands animate, inspect and convert, from toy files to toy files."""

import json
import subprocess
import sys
import textwrap
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")
pytest.importorskip("transformers", reason="transformers is not installed (make setup installs it)")

from motiongraft.core.errors import CheckpointError, IncompatibleModelError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.lora.motion_lora import fit
from motiongraft.sampling.beta_schedules import BETA_SCHEDULES
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.noise_levels import noise_levels
from motiongraft.standalone import animate as command
from motiongraft.standalone import convert, file_report
from motiongraft.standalone.animation import AnimationSettings, Prompts, animate
from motiongraft.standalone.diffusers_base import load_base
from motiongraft.standalone.motion_files import (
    add_motion_lora,
    load_domain_adapter,
    load_motion_lora,
    load_motion_module,
    with_domain_adapter,
)
from motiongraft.standalone.text_encoders import load_prompt_encoder
from motiongraft.standalone.unet_topology import UnetTopology
from motiongraft.tests.tiny_sd_pack import checkpoints
from motiongraft.tests.tiny_sd_pack.text_weights import VOCABULARY
from motiongraft.training.cache.cached_clips import TextStates
from motiongraft.training.denoiser import NOISE, VELOCITY
from motiongraft.training.noise_schedule import signal_shares

CPU = torch.device("cpu")
ROOT = Path(command.__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_toy_tokenizer(folder / "tokenizer")
    return {
        "base": checkpoints.write_tiny_sd15(folder / "tiny_sd15.safetensors"),
        "sdxl": checkpoints.write_tiny_sdxl(folder / "tiny_sdxl.safetensors"),
        "module": checkpoints.write_motion_module(folder / "motion.safetensors"),
        "sdxl module": checkpoints.write_motion_module(folder / "xl.safetensors", checkpoints.SDXL_CHANNELS),
        "lora": checkpoints.write_motion_lora(folder / "zoom.safetensors"),
        "adapter": checkpoints.write_domain_adapter(folder / "adapter.safetensors"),
        "tokenizer": folder / "tokenizer",
    }


def write_toy_tokenizer(folder):
    """A vocabulary of letters, without merges."""
    folder.mkdir()
    letters = [chr(number) for number in range(33, 127)]
    vocabulary = {word: number for number, word in enumerate(letters + [f"{letter}</w>" for letter in letters])}
    vocabulary |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def options(files, out, *more, base="base", module="module"):
    parser = ArgumentParser()
    command.add_arguments(parser)
    words = ["--base", files[base], "--motion-module", files[module], "--tokenizer", files["tokenizer"]]
    sizes = ["--frames", 5, "--width", 64, "--height", 48, "--steps", 2, "--device", "cpu", "--prompt", "a boat"]
    return parser.parse_args(list(map(str, [*words, *sizes, "--out", out, *more])))


def frames_of(path):
    with Image.open(path) as picture:
        return picture.n_frames, picture.size, picture.info.get("loop")


class TestAnimate:
    @pytest.mark.parametrize("family", ["base", "sdxl"])
    def test_a_checkpoint_a_module_and_a_prompt_become_a_clip(self, files, tmp_path, capsys, family):
        out = tmp_path / "clip.webp"
        module = "module" if family == "base" else "sdxl module"
        assert command.main(options(files, out, base=family, module=module)) == 0
        assert frames_of(out) == (5, (64, 48), 0)
        assert capsys.readouterr().out.strip() == str(out)
        assert [path.name for path in tmp_path.iterdir()] == ["clip.webp"]

    def test_windows_loras_and_an_adapter_go_into_a_clip(self, files, tmp_path):
        def clip(name, *more):
            windows = ["--window-length", 3, "--overlap", 1, "--steps", 1]
            command.main(options(files, tmp_path / name, *windows, *more))
            with Image.open(tmp_path / name) as picture:
                return picture.tobytes()

        plain = clip("plain.webp")
        assert clip("lora.webp", "--motion-lora", f"{files['lora']}:0.9") != plain
        assert clip("adapter.webp", "--domain-adapter", files["adapter"]) != plain
        assert (
            clip("neutral.webp", "--motion-lora", f"{files['lora']}:0", "--domain-adapter", f"{files['adapter']}:0")
            == plain
        )

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--width", 63], "multiples of 8, found 63×48. Set them to 64 and 48"),
            (["--frames", 40, "--window-length", 40], "window|40 frames at once"),
            (["--frames", 1], "One frame cannot move"),
            (["--steps", 0], "steps should be 1 to 1000"),
            (["--fps", 0], "--fps"),
            (["--overlap", 16], "overlap 16 must be smaller"),
            (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
            (["--motion-lora", "zoom:fast"], "FILE:STRENGTH"),
        ],
    )
    def test_settings_that_cannot_be_are_refused_before_anything_is_written(self, files, tmp_path, more, words):
        with pytest.raises(SettingsError, match=words):
            command.main(options(files, tmp_path / "clip.webp", *more))
        assert not list(tmp_path.iterdir())

    def test_nothing_is_written_over_a_file_or_beside_a_folder(self, files, tmp_path):
        taken = tmp_path / "clip.webp"
        taken.write_bytes(b"mine")
        with pytest.raises(SettingsError, match="exists already"):
            command.main(options(files, taken))
        assert taken.read_bytes() == b"mine"
        with pytest.raises(SettingsError, match="does not exist"):
            command.main(options(files, tmp_path / "none" / "clip.webp"))
        with pytest.raises(SettingsError, match=r"Name it clip\.webp"):
            command.main(options(files, tmp_path / "clip.gif"))

    def test_a_checkpoint_without_a_tokenizer_says_which_option_names_one(self, files, tmp_path):
        chosen = options(files, tmp_path / "clip.webp")
        chosen.tokenizer = None
        with pytest.raises(CheckpointError, match="--tokenizer DIR"):
            command.main(chosen)

    def test_a_strength_stands_behind_the_last_colon(self):
        assert command.file_and_strength("a.safetensors") == (Path("a.safetensors"), 1.0)
        assert command.file_and_strength("a.safetensors:-0.5") == (Path("a.safetensors"), -0.5)
        assert command.file_and_strength("C:/a.safetensors") == (Path("C:/a.safetensors"), 1.0)


class Oracle:
    """A denoiser that knows the clip: what it sees is that clip and noise."""

    device, base_alphas, checkpointing = CPU, None, False

    def __init__(self, clip, predicts):
        self.clip, self.predicts = clip, predicts
        self.shares = signal_shares(BETA_SCHEDULES["animatediff"])
        self.calls = []

    def predict(self, noisy, timesteps, conditioning, num_frames):
        self.calls.append((tuple(timesteps.tolist()), num_frames))
        share = self.shares[timesteps].repeat_interleave(num_frames).view(-1, 1, 1, 1)
        clean = self.clip.repeat(len(timesteps), 1, 1, 1)
        noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
        return (noise if self.predicts == NOISE else share.sqrt() * noise - (1 - share).sqrt() * clean).float()


class TestSampling:
    @pytest.mark.parametrize("predicts", [NOISE, VELOCITY])
    @pytest.mark.parametrize("steps", [1, 5, 20])
    def test_a_model_that_knows_the_clip_gives_it_back(self, predicts, steps):
        clip = torch.randn(4, 4, 2, 3)
        text = TextStates(torch.zeros(7, 8), None)
        settings = AnimationSettings(4, 24, 16, steps, 7.5, 0, "ddim")
        oracle = Oracle(clip, predicts)
        found = animate(oracle, oracle.shares, Prompts(text, text), settings)
        assert torch.allclose(found, clip, atol=1e-3)
        assert len(oracle.calls) == steps

    def test_ddim_passes_the_published_timesteps(self):
        levels = noise_levels("ddim", signal_shares(BETA_SCHEDULES["animatediff"]), 25)
        assert [level.timestep for level in levels] == list(range(961, 0, -40))

    def test_timesteps_are_those_of_diffusers(self):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        shares = signal_shares(BETA_SCHEDULES["animatediff"])
        schedule = BETA_SCHEDULES["animatediff"]
        theirs = DDIMScheduler(
            beta_start=schedule.first, beta_end=schedule.last, beta_schedule="linear", steps_offset=1, clip_sample=False
        )
        theirs.set_timesteps(30)
        levels = noise_levels("ddim", shares, 30)
        assert [level.timestep for level in levels] == theirs.timesteps.tolist()
        x, noise = torch.randn(2, 3), torch.randn(2, 3)
        share = shares[levels[3].timestep]
        expected = theirs.step(noise, levels[3].timestep, x.double()).prev_sample
        from motiongraft.sampling.noise_levels import euler_step

        following = shares[levels[4].timestep]
        assert following.sqrt() * euler_step(x / share.sqrt(), noise, levels[3], levels[4]) == pytest.approx(
            expected, abs=1e-5
        )

    def test_guidance_of_one_needs_one_prompt(self):
        text = TextStates(torch.zeros(7, 8), None)
        for cfg, prompts in ((1.0, 1), (7.5, 2)):
            oracle = Oracle(torch.randn(4, 4, 2, 3), NOISE)
            animate(oracle, oracle.shares, Prompts(text, text), AnimationSettings(4, 24, 16, 1, cfg))
            assert [len(times) for times, _ in oracle.calls] == [prompts]

    def test_the_model_sees_one_window_at_a_time(self):
        text = TextStates(torch.zeros(7, 8), None)
        oracle = Oracle(torch.zeros(1, 4, 2, 3).expand(4, -1, -1, -1), NOISE)
        windows = ContextWindowSettings(4, 1, schedule="static")
        animate(oracle, oracle.shares, Prompts(text, text), AnimationSettings(9, 24, 16, 2, windows=windows))
        assert {frames for _, frames in oracle.calls} == {4}


class TestFiles:
    def test_a_motion_lora_is_added_in_full_and_taken_back_by_its_negative(self, files):
        module, before = load_motion_module(files["module"]), load_motion_module(files["module"])
        lora = load_motion_lora(files["lora"])
        add_motion_lora(module, lora, 0.8)
        weights, own = dict(module.named_parameters()), dict(before.named_parameters())
        changes, _ = fit(lora, {name: tuple(weight.shape) for name, weight in own.items()}, "toy")
        change = next(each for each in changes if each.first_row)
        rows = slice(change.first_row, change.first_row + change.num_rows)
        expected = own[change.target][rows].double() + 0.8 * change.up.double() @ change.down.double()
        assert torch.allclose(weights[change.target][rows].double(), expected, atol=1e-6)
        add_motion_lora(module, lora, -0.8)
        assert all(torch.allclose(weights[name], weight, atol=1e-6) for name, weight in own.items())

    def test_a_domain_adapter_leaves_the_base_alone_and_shares_what_it_does_not_change(self, files):
        base = load_base(files["base"])
        before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
        adapted = with_domain_adapter(base, load_domain_adapter(files["adapter"]))
        assert all(torch.equal(weight, before[name]) for name, weight in base.unet.state_dict().items())
        changed = [name for name, weight in adapted.unet.state_dict().items() if not torch.equal(weight, before[name])]
        assert len(changed) == 128
        assert all(".attn" in name for name in changed)
        assert adapted.unet.conv_in.weight.data_ptr() == base.unet.conv_in.weight.data_ptr()

    def test_what_does_not_fit_is_refused_in_words(self, files):
        base, sdxl = load_base(files["base"]), load_base(files["sdxl"])
        adapter = load_domain_adapter(files["adapter"])
        with pytest.raises(IncompatibleModelError, match="adapter made for SDXL"):
            with_domain_adapter(sdxl, adapter)
        foreign = {name.replace("_lora.down", ".lora_A"): tensor for name, tensor in adapter.items()}
        with pytest.raises(CheckpointError, match="names of one program"):
            with_domain_adapter(base, foreign)
        half = dict(list(adapter.items())[:-1])
        with pytest.raises(CheckpointError, match="should have down"):
            with_domain_adapter(base, half)
        with pytest.raises(CheckpointError, match="expected a motion module, found a MotionLoRA"):
            load_motion_module(files["lora"])

    def test_a_prompt_fills_one_section_and_a_long_one_more(self, files):
        encoder = load_prompt_encoder(files["base"], "SD 1.5", files["tokenizer"], CPU)
        assert encoder.encode("").states.shape == (77, 32)
        assert encoder.encode("x" * 100).states.shape == (154, 32)
        assert encoder.encode("a boat").pooled is None
        both = load_prompt_encoder(files["sdxl"], "SDXL", files["tokenizer"], CPU).encode("a boat")
        assert (both.states.shape, both.pooled.shape) == ((77, 64), (32,))

    @pytest.mark.parametrize(
        ("family", "channels", "depths", "context", "label", "heads", "parameters"),
        [
            ("SD 1.5", (320, 640, 1280, 1280), (1, 1, 1, 0), 768, None, (8,) * 4, 859_520_964),
            ("SDXL", (320, 640, 1280), (0, 2, 10), 2048, 2816, (5, 10, 20), 2_567_463_684),
        ],
    )
    def test_the_published_unets_have_their_published_size(
        self, family, channels, depths, context, label, heads, parameters
    ):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        topology = UnetTopology(family, channels, depths, context, label, heads)
        with torch.device("meta"):
            unet = UNet2DConditionModel(**topology.config())
        assert sum(weight.numel() for weight in unet.parameters()) == parameters


class TestInspect:
    @pytest.mark.parametrize(
        ("file", "words"),
        [
            ("base", ["a whole base model", "SD 1.5: widths 32, 64, 128, 128", "predicts noise"]),
            ("module", ["a motion module", "generation v3, for SD 1.5", "up to 32 frames", "animatediff"]),
            ("sdxl module", ["generation sdxl-beta", "its own over all frames of a clip"]),
            ("lora", ["a MotionLoRA", "rank 4, 160 changes"]),
            ("adapter", ["a domain adapter", "rank 4, 128 changes"]),
        ],
    )
    def test_a_file_is_described_in_words(self, files, capsys, file, words):
        parser = ArgumentParser()
        file_report.add_arguments(parser)
        assert file_report.main(parser.parse_args([str(files[file])])) == 0
        found = capsys.readouterr().out
        assert all(word in found for word in words), found


class TestConvert:
    @pytest.mark.parametrize("kind", ["module", "lora", "adapter"])
    def test_a_pickled_file_comes_back_as_safetensors_with_the_same_weights(self, files, tmp_path, kind):
        tensors = load_file(files[kind])
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "in.ckpt")
        convert.convert(tmp_path / "in.ckpt", tmp_path / "out.safetensors", None)
        found = load_file(tmp_path / "out.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())

    def test_weights_get_the_type_that_was_asked_for_and_positions_stay_exact(self, files, tmp_path):
        convert.convert(files["module"], tmp_path / "out.safetensors", torch.float16)
        for name, tensor in load_file(tmp_path / "out.safetensors").items():
            assert tensor.dtype == (torch.float32 if name.endswith(".pe") else torch.float16)

    def test_what_a_file_says_of_itself_goes_along(self, files, tmp_path):
        convert.convert(files["module"], tmp_path / "out.safetensors", None)
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            said = json.loads(file.metadata()["motiongraft"])
        assert (said["kind"], said["base"], said["spec"]["generation"]) == ("motion module", "SD 1.5", "v3")
        assert load_motion_module(tmp_path / "out.safetensors").spec == load_motion_module(files["module"]).spec

    def test_nothing_is_written_over_a_file_and_no_half_file_stays(self, files, tmp_path):
        taken = tmp_path / "out.safetensors"
        taken.write_bytes(b"mine")
        with pytest.raises(SettingsError, match="exists already"):
            convert.convert(files["module"], taken, None)
        assert taken.read_bytes() == b"mine"
        with pytest.raises(CheckpointError, match="found a whole base model"):
            convert.convert(files["base"], tmp_path / "other.safetensors", None)
        large = {name: tensor * 1e9 for name, tensor in load_file(files["lora"]).items()}
        from safetensors.torch import save_file

        save_file(large, tmp_path / "large.safetensors")
        with pytest.raises(SettingsError, match="Choose --dtype fp32 or bf16"):
            convert.convert(tmp_path / "large.safetensors", tmp_path / "other.safetensors", torch.float16)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["large.safetensors", "out.safetensors"]
        assert read_tensor_file(tmp_path / "large.safetensors").tensors


class TestCommandLine:
    def run(self, *words, before=""):
        code = textwrap.dedent(f"""
            import runpy, sys
            {before}
            sys.argv = {["standalone", *map(str, words)]!r}
            runpy.run_path({str(ROOT / "standalone")!r}, run_name="__main__")
        """)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    def test_what_is_refused_is_one_sentence_and_exit_status_one(self, tmp_path):
        done = self.run("inspect", tmp_path / "none.safetensors")
        assert (done.returncode, done.stdout) == (1, "")
        assert "expected a file at" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_missing_package_says_how_to_install_it(self, tmp_path):
        done = self.run("animate", "--help", before='sys.modules["diffusers"] = None')
        assert done.returncode == 1
        assert "package diffusers, and it is not installed" in done.stderr
        assert "requirements-standalone.txt" in done.stderr
        assert "Traceback" not in done.stderr
        assert (ROOT / "requirements-standalone.txt").is_file()

    def test_all_commands_are_listed_without_loading_any(self):
        done = self.run("--help", before='sys.modules["torch"] = None')
        assert done.returncode == 0
        assert all(name in done.stdout for name in ("animate", "train", "inspect", "convert", "demo", "find-host"))
