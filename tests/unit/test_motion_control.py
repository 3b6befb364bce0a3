"""How much motion is added where: values by frame, masks, blocks, and attention that is sharper or more even."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motiongraft.core.errors import SettingsError
from motiongraft.core.part_factors import PartFactors, parse_part_factors
from motiongraft.motion_modules.adjustments import Adjustments
from motiongraft.motion_modules.attention import TemporalSelfAttention
from motiongraft.sampling.frame_values import FrameValues, parse_frame_values
from motiongraft.sampling.motion_control import (
    ControlledFrames,
    MotionControl,
    as_masks,
    attention_scale_of,
    factors_of,
    latent_mask,
    strength_of,
)
from motiongraft.tests.helpers.random_modules import random_module, toy_spec

NAME = "up_blocks.1.motion_modules.0.temporal_transformer"


class TestFrameValues:
    def test_an_empty_text_is_none(self):
        assert parse_frame_values(" ,\n", "per_frame") is None

    @pytest.mark.parametrize("text", ["1, 0.5,0", "1\n0.5\n0", " 1 ,\n0.5, 0 "])
    def test_a_list_has_a_value_for_each_frame(self, text):
        values = parse_frame_values(text, "per_frame")
        assert values is not None
        assert values.for_frames(3, "per_frame") == [1, 0.5, 0]

    @pytest.mark.parametrize("num_frames", [2, 4])
    def test_a_list_of_another_length_is_refused_and_not_resampled(self, num_frames):
        with pytest.raises(SettingsError, match=rf"each of the {num_frames} frames, found 3"):
            FrameValues((1, 0.5, 0)).for_frames(num_frames, "per_frame")

    @pytest.mark.parametrize(("num_frames", "expected"), [(3, [1, 0.5, 0]), (5, [1, 0.75, 0.5, 0.25, 0]), (2, [1, 0])])
    def test_a_list_is_stretched_where_that_is_asked_for(self, num_frames, expected):
        assert FrameValues((1, 0.5, 0)).for_frames(num_frames, "per_frame", resample=True) == pytest.approx(expected)

    def test_lines_reach_from_key_to_key(self):
        values = parse_frame_values("4: 1\n2: 0", "per_frame")
        assert values is not None
        assert values.for_frames(6, "per_frame") == [0, 0, 0, 0.5, 1, 1]

    def test_a_line_for_a_frame_outside_the_clip_is_refused(self):
        with pytest.raises(SettingsError, match="frames 0 to 3, and a line is for frame 4"):
            FrameValues(keys=((4, 1.0),)).for_frames(4, "per_frame")

    @pytest.mark.parametrize(
        "text", ["1, x", "1: 2: 3", "a: 1", "-1: 1", "1: 1, 0.5", "nan", "0: inf", "1: 1, 1: 2", "1.5: 1"]
    )
    def test_what_is_no_value_is_refused_by_name(self, text):
        with pytest.raises(SettingsError, match=r"^per_frame: "):
            parse_frame_values(text, "per_frame")

    @given(st.dictionaries(st.integers(0, 30), st.floats(-5, 5), min_size=1, max_size=5))
    def test_no_value_lies_outside_those_of_the_keys(self, keys):
        found = FrameValues(keys=tuple(sorted(keys.items()))).for_frames(31, "per_frame")
        assert min(keys.values()) - 1e-9 <= min(found)
        assert max(found) <= max(keys.values()) + 1e-9
        assert all(found[frame] == pytest.approx(value) for frame, value in keys.items())


class TestPartFactors:
    def test_factors_of_all_fitting_parts_multiply(self):
        factors = parse_part_factors("up_blocks: 0.5\nup_blocks.1: 0.5\n\nmid_block: 0", "blocks")
        assert factors.of(NAME) == 0.25
        assert factors.of("down_blocks.1.motion_modules.0") == 1

    def test_a_part_is_whole_words(self):
        assert PartFactors((("up_blocks.1", 0.0),)).of("up_blocks.11.motion_modules.0") == 1

    def test_a_part_of_nothing_is_refused(self):
        with pytest.raises(SettingsError, match=r"^blocks: up_blocks\.9 is no part of the module"):
            PartFactors((("up_blocks.9", 1.0),)).check_parts([NAME], "blocks", "the module")


class TestStrength:
    def of(self, control, frames=4, size=(8, 8), mask=None, x=None):
        x = torch.zeros(frames, 3, *size) if x is None else x
        own = ControlledFrames(control, factors_of(control, range(frames), frames), mask)
        return strength_of([own], NAME, x)

    def test_a_neutral_control_is_the_number_one(self):
        assert self.of(MotionControl()) == 1.0
        assert isinstance(self.of(MotionControl()), float)

    def test_equal_values_are_one_number_and_others_one_for_each_frame(self):
        assert self.of(MotionControl(0.5, per_frame=FrameValues((1, 1, 1, 1)))) == 0.5
        found = self.of(MotionControl(2.0, per_frame=FrameValues((0, 0.25, 0.5, 1))), x=torch.zeros(8, 3, 2, 2))
        assert found.flatten().tolist() == [0, 0.5, 1, 2] * 2

    def test_a_black_mask_changes_nothing_and_a_white_one_everything(self):
        for value, expected in ((0.0, 1.0), (1.0, 0.25)):
            found = self.of(MotionControl(0.25), mask=torch.full((4, 1, 8, 8), value))
            assert torch.equal(found, torch.full((4, 1, 8, 8), expected))

    def test_a_mask_acts_inside_it_alone(self):
        mask = torch.zeros(4, 1, 8, 8)
        mask[:, :, :, :4] = 1
        found = self.of(MotionControl(0.0), size=(4, 4), mask=mask)
        assert torch.equal(found[..., :2], torch.zeros(4, 1, 4, 2))
        assert torch.equal(found[..., 2:], torch.ones(4, 1, 4, 2))

    def test_a_mask_holds_for_the_attention_scale_too(self):
        mask = torch.zeros(2, 1, 4, 4)
        mask[..., :2] = 1
        own = ControlledFrames(MotionControl(attention_scale=1.5), torch.ones(2), mask)
        found = attention_scale_of([own, ControlledFrames(MotionControl(attention_scale=2.0), torch.ones(2), None)],
                                   torch.zeros(2, 3, 4, 4))  # fmt: skip
        assert torch.equal(found, 2 + mask)
        assert attention_scale_of([], torch.zeros(2, 3, 4, 4)) == 1.0

    def test_controls_multiply(self):
        first, second = MotionControl(0.5), MotionControl(0.5, per_frame=FrameValues((1, 2)), previous=None)
        chain = MotionControl(0.5, per_frame=FrameValues((1, 2)), previous=first)
        assert list(chain.chain())[1] is first
        owns = [ControlledFrames(each, factors_of(each, range(2), 2), None) for each in (first, second)]
        assert strength_of(owns, NAME, torch.zeros(2, 1, 1, 1)).flatten().tolist() == [0.25, 0.5]

    def test_a_window_has_the_values_of_its_own_frames(self):
        control = MotionControl(per_frame=FrameValues((0, 1, 2, 3, 4)))
        assert factors_of(control, [3, 4, 0], 5).tolist() == [3, 4, 0]

    def test_masks_of_a_window_are_those_of_its_frames_at_the_size_of_the_latents(self):
        masks = torch.arange(5.0).div(4)[:, None, None].expand(-1, 16, 24)
        found = latent_mask(masks, [3, 4, 0], (2, 3))
        assert found.shape == (3, 1, 2, 3)
        assert found[:, 0, 0, 0].tolist() == [0.75, 1, 0]
        assert latent_mask(masks[4:], [3, 4, 0], (2, 3)).eq(1).all()

    def test_two_controls_that_meet_share_the_sampling_out_without_a_gap(self):
        first, second = MotionControl(end_percent=0.5), MotionControl(start_percent=0.5)
        for percent in (0, 0.25, 0.5, 0.75, 1):
            assert first.acts_at(percent) != second.acts_at(percent)
        assert MotionControl().acts_at(0)
        assert MotionControl().acts_at(1)

    @pytest.mark.parametrize("shape", [(8, 6), (1, 8, 6), (4, 8, 6), (4, 1, 8, 6)])
    def test_masks_of_every_form_that_comfyui_has_are_taken(self, shape):
        assert as_masks(torch.ones(shape)).shape == (4 if shape[0] == 4 else 1, 8, 6)

    def test_what_is_no_mask_is_refused(self):
        with pytest.raises(SettingsError, match="height×width, found 4×8×8×3"):
            as_masks(torch.ones(4, 8, 8, 3))

    def test_a_control_that_changes_nothing_is_neutral(self):
        assert MotionControl(mask=torch.zeros(1, 8, 8), start_percent=0.5).is_neutral
        assert not MotionControl(attention_scale=1.1).is_neutral
        assert not MotionControl(per_frame=FrameValues((1, 0))).is_neutral

    @pytest.mark.parametrize(("start", "end"), [(-0.1, 1), (0.6, 0.5), (0, 1.1), (0.5, 0.5)])
    def test_a_part_of_the_sampling_that_is_none_is_refused(self, start, end):
        with pytest.raises(SettingsError, match="are no part of the sampling"):
            MotionControl(start_percent=start, end_percent=end)

    def test_masks_of_another_number_are_stretched_where_that_is_asked_for(self):
        masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
        control = MotionControl(0.5, mask=masks, resample=True)
        control.check_clip(5)
        found = control.mask_at(range(5), 5, (4, 4))
        assert found is not None
        assert found[:, 0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
        one = MotionControl(0.5, mask=masks[1:], resample=True).mask_at([3, 4], 5, (4, 4))
        assert one is not None
        assert one.eq(1).all()

    def test_masks_of_another_number_are_refused(self):
        control = MotionControl(previous=MotionControl(mask=torch.ones(3, 8, 8)))
        control.check_clip(3)
        with pytest.raises(SettingsError, match="each of the 16, found 3"):
            control.check_clip(16)


class TestTransformer:
    @pytest.fixture(scope="class")
    @classmethod
    def transformer(cls):
        module = random_module(toy_spec())
        address, channels = next(iter(module.spec.sites()))
        return module.at(address), torch.randn(8, channels, 4, 4, generator=torch.Generator().manual_seed(1))

    def test_strength_zero_gives_the_features_themselves(self, transformer):
        module, x = transformer
        assert module(x, 8, Adjustments(strength=0.0)) is x

    def test_where_the_strength_is_zero_the_features_stay_and_elsewhere_all_motion_is_added(self, transformer):
        module, x = transformer
        strength = torch.ones(8, 1, 4, 4)
        strength[2] = 0
        strength[:, :, :2] = 0
        found, whole = module(x, 8, Adjustments(strength=strength)), module(x, 8)
        still = (strength == 0).expand_as(x)
        assert torch.equal(found[still], x[still])
        assert torch.equal(found[~still], whole[~still])

    def test_half_the_strength_adds_half_the_motion(self, transformer):
        module, x = transformer
        found, whole = module(x, 8, Adjustments(strength=0.5)), module(x, 8)
        assert (found - (x + whole) / 2).abs().max() < 1e-6

    @pytest.mark.parametrize("scale", [0.0, 0.5, 1.3])
    def test_the_attention_scale_multiplies_what_frames_mean_to_each_other(self, scale):
        torch.manual_seed(0)
        attention = TemporalSelfAttention(16, 32, 2).double()
        tokens = torch.randn(6, 5, 16, dtype=torch.float64)
        found = attention(tokens.clone(), 6, Adjustments(attention_scale=scale))
        qkv = attention.to_qkv(tokens + attention.pos_encoder.pe[0, :6, None])
        q, k, v = (part.reshape(6, 5, 2, 8).permute(1, 2, 0, 3) for part in qkv.chunk(3, -1))
        weights = (scale * q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        expected = attention.to_out[0]((weights @ v).permute(2, 0, 1, 3).reshape(6, 5, 16))
        assert (found - expected).abs().max() < 1e-12

    def test_an_attention_scale_by_pixel_is_that_of_each_pixel(self, transformer):
        module, x = transformer
        scale = torch.ones(8, 1, 4, 4)
        scale[..., :2] = 1.5
        found = module(x, 8, Adjustments(attention_scale=scale))
        sharp, plain = module(x, 8, Adjustments(attention_scale=1.5)), module(x, 8)
        assert (found[..., :2] - sharp[..., :2]).abs().max() < 1e-5
        assert torch.equal(found[..., 2:], plain[..., 2:])
