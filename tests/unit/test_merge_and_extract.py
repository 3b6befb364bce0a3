"""The commands merge and extract: sums that are exact, and a MotionLoRA that says what it leaves out."""

import re
from argparse import ArgumentParser

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file
from motiongraft.lora.extraction import extract
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.motion_modules.load import read_motion_file, saved_form
from motiongraft.standalone import extract as extract_command
from motiongraft.standalone import merge as merge_command
from motiongraft.standalone.motion_files import add_motion_lora, load_motion_module
from motiongraft.tests.helpers.random_modules import random_module, toy_spec


def write(folder, name, generation="v3", seed=0, change=None, **spec):
    module = random_module(toy_spec(generation, **spec), seed)
    if change:
        change(module)
    write_tensor_file(folder / name, *saved_form(module))
    return folder / name


def run(command, *arguments):
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(list(map(str, arguments))))


def weights(path):
    return read_motion_file(read_tensor_file(path)).tensors


class TestMerge:
    def test_it_is_the_weighted_sum_in_float64(self, tmp_path, capsys):
        paths = [write(tmp_path, f"{seed}.safetensors", seed=seed) for seed in range(3)]
        shares = (0.5, 0.8, -0.3)
        given = [f"{path}:{share}" for path, share in zip(paths, shares, strict=True)]
        out = tmp_path / "out.safetensors"
        assert run(merge_command, *given, "--out", out, "--dtype", "fp32") == 0
        assert capsys.readouterr().out.strip() == str(out)
        parts = [weights(path) for path in paths]
        for name, tensor in weights(out).items():
            expected = sum(share * part[name].double() for share, part in zip(shares, parts, strict=True))
            assert torch.equal(tensor, parts[0][name] if name.endswith(".pe") else expected.float()), name

    def test_a_module_merged_with_itself_is_itself(self, tmp_path):
        path = write(tmp_path, "a.safetensors")
        run(merge_command, f"{path}:0.25", f"{path}:0.75", "--out", tmp_path / "out.safetensors", "--dtype", "fp32")
        assert all(
            torch.equal(tensor, weights(path)[name]) for name, tensor in weights(tmp_path / "out.safetensors").items()
        )

    def test_the_file_says_what_it_was_made_of(self, tmp_path):
        path = write(tmp_path, "a.safetensors", num_heads=4)
        run(merge_command, f"{path}:0.25", f"{path}:0.75", "--out", tmp_path / "out.safetensors")
        file = read_tensor_file(tmp_path / "out.safetensors")
        assert file.metadata["merged"] == [{"module": "a.safetensors", "weight": w} for w in (0.25, 0.75)]
        assert read_motion_file(file).spec == read_motion_file(read_tensor_file(path)).spec

    @pytest.mark.parametrize(
        ("other", "spec", "words"),
        [
            ("v2", {}, "middle channels is None"),
            ("v1", {}, "base norms over frames"),
            ("v3", {"num_heads": 4}, "num heads"),
        ],
    )
    def test_modules_of_two_designs_are_refused(self, tmp_path, other, spec, words):
        first, second = write(tmp_path, "a.safetensors"), write(tmp_path, "b.safetensors", other, **spec)
        with pytest.raises(IncompatibleModelError, match=f"cannot be merged: {words}"):
            run(merge_command, f"{first}:0.5", f"{second}:0.5", "--out", tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()

    @pytest.mark.parametrize(
        ("weights", "words"),
        [((":1",), "two or more"), ((":1", ""), "with its weight"), ((":nan", ":1"), "FILE:STRENGTH")],
    )
    def test_weights_that_are_missing_or_none_are_refused(self, tmp_path, weights, words):
        path = write(tmp_path, "a.safetensors")
        with pytest.raises(SettingsError, match=words):
            run(merge_command, *(f"{path}{weight}" for weight in weights), "--out", tmp_path / "out.safetensors")


class TestExtract:
    @staticmethod
    def change_attentions(rank, noise=0.0):
        """A change of a rank to all attention weights of a module."""

        def change(module):
            generator = torch.Generator().manual_seed(5)
            for name, weight in module.named_parameters():
                if name.endswith(("to_qkv.weight", "to_out.0.weight")):
                    for rows in weight.split(weight.shape[1]):
                        up, down = (torch.randn(rows.shape[0], rank, generator=generator) for _ in range(2))
                        rows += 0.05 * up @ down.T + noise * torch.randn(rows.shape, generator=generator)

        return change

    def test_a_change_of_its_rank_comes_back(self, tmp_path, capsys):
        base = write(tmp_path, "base.safetensors")
        tuned = write(tmp_path, "tuned.safetensors", change=self.change_attentions(4))
        run(extract_command, base, tuned, "--out", tmp_path / "lora.safetensors", "--rank", 4, "--dtype", "fp32")
        lora = read_motion_lora(read_tensor_file(tmp_path / "lora.safetensors"))
        assert (len(lora.changes), {each.rank for each in lora.changes}) == (160, {4})
        module = load_motion_module(base)
        add_motion_lora(module, lora, 1.0)
        for name, tensor in module.state_dict().items():
            assert (tensor - weights(tuned)[name]).abs().max() < 1e-5, name
        assert "holds 100.00% of what the attentions differ by" in capsys.readouterr().err

    def test_what_a_smaller_rank_leaves_out_is_reported_as_it_is(self, tmp_path, capsys):
        base = write(tmp_path, "base.safetensors")
        tuned = write(tmp_path, "tuned.safetensors", change=self.change_attentions(8, noise=0.01))
        run(extract_command, base, tuned, "--out", tmp_path / "lora.safetensors", "--rank", 4, "--dtype", "fp32")
        module, before, after = load_motion_module(base), weights(base), weights(tuned)
        add_motion_lora(module, read_motion_lora(read_tensor_file(tmp_path / "lora.safetensors")), 1.0)
        whole = sum(float((after[name] - before[name]).square().sum()) for name in before)
        left = sum(float((after[name] - tensor).square().sum()) for name, tensor in module.state_dict().items())
        (reported,) = re.findall(r"relative error (\S+);", capsys.readouterr().err)
        assert float(reported) == pytest.approx((left / whole) ** 0.5, rel=1e-2)
        assert 0.1 < float(reported) < 1

    def test_a_difference_in_other_layers_is_reported(self, tmp_path, capsys):
        def change(module):
            self.change_attentions(4)(module)
            for name, weight in module.named_parameters():
                if "ff.net.2.weight" in name:
                    weight += 0.1

        tuned = write(tmp_path, "tuned.safetensors", change=change)
        run(
            extract_command,
            write(tmp_path, "base.safetensors"),
            tuned,
            "--out",
            tmp_path / "l.safetensors",
            "--rank",
            4,
        )
        (share,) = re.findall(r"; (\S+)% of the whole difference lies in other layers", capsys.readouterr().err)
        assert float(share) > 10

    def test_modules_of_two_shapes_and_equal_ones_are_refused(self, tmp_path):
        base, other = write(tmp_path, "a.safetensors", "v2"), write(tmp_path, "b.safetensors", "v3")
        for tuned, words in ((other, "cannot be compared: middle channels"), (base, "the same attentions")):
            with pytest.raises(IncompatibleModelError, match=words):
                run(extract_command, base, tuned, "--out", tmp_path / "lora.safetensors")

    def test_no_change_of_the_rank_is_closer(self):
        difference = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
        found = extract("w", difference, 3)
        error = (difference.double() - found.change.up.double() @ found.change.down.double()).square().sum()
        assert float(error) == pytest.approx(found.left_out, rel=1e-5)
        assert found.left_out == pytest.approx(float(torch.linalg.svdvals(difference.double())[3:].square().sum()))
        assert found.whole == pytest.approx(float(difference.double().square().sum()))
