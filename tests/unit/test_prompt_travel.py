"""Prompt travel: what its lines mean, what each frame is made of, and states on the way from prompt to prompt."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.prompt_travel import CURVES, INTERPOLATIONS, Travel, joined, parse_travel
from motiongraft.sampling.text_states import between, equally_long, travel_states

TWO = "0: a cat\n8: a dog"


def keys_of(travel: Travel):
    return [(key.first, key.last, key.prompt) for key in travel.keys]


@st.composite
def travels(draw):
    """Any travel: keys and ranges in any order, over frames that do not overlap."""
    num_frames = draw(st.integers(1, 40))
    edges = sorted(draw(st.sets(st.integers(0, num_frames), min_size=2, max_size=12)) | {0})
    pieces = [(first, draw(st.integers(first, second - 1))) for first, second in pairwise(edges)]
    lines = [f"{first}-{last}: prompt {draw(st.integers(0, 3))}" for first, last in draw(st.permutations(pieces))]
    return parse_travel(
        "\n".join(lines), num_frames, draw(st.sampled_from(INTERPOLATIONS)), "", "", draw(st.booleans())
    )


class TestLines:
    """`frame: prompt`, in all its forms."""

    @pytest.mark.parametrize(
        ("line", "key"),
        [
            ("0: a cat", (0, 0, "a cat")),
            ("  3 :a cat ", (3, 3, "a cat")),
            ("8-12: a dog", (8, 12, "a dog")),
            ("8 - 12 : a dog", (8, 12, "a dog")),
            ("-1: a bird", (15, 15, "a bird")),
            ("12--1: a bird", (12, 15, "a bird")),
            ("-4--2: a bird", (12, 14, "a bird")),
            ("-16: a cat", (0, 0, "a cat")),
            ("5-5: a cat", (5, 5, "a cat")),
            ("0: style: a cat, 9: no key", (0, 0, "style: a cat, 9: no key")),
            ("0: a (cat:1.2), [dog], \\(x\\)", (0, 0, "a (cat:1.2), [dog], \\(x\\)")),
            ("0: a cat  # the hero", (0, 0, "a cat")),
            ("0: room #5", (0, 0, "room #5")),
            ("0: a cat // and / slashes", (0, 0, "a cat // and / slashes")),
            ("4:", (4, 4, "")),
            ("4\uff1aa cat", (4, 4, "a cat")),
        ],
    )
    def test_a_line_means(self, line, key):
        assert keys_of(parse_travel(line, 16)) == [key]

    def test_comments_and_blank_lines_are_left_out_and_order_does_not_matter(self):
        text = "# 3: no\n\n8: a dog\r\n   # 4: no\n \t \n0: a cat\n"
        assert keys_of(parse_travel(text, 16)) == keys_of(parse_travel(TWO, 16))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0: a cat\na dog", r"line 2: expected `frame: prompt`.*found `a dog`.*colon in front"),
            ('# json\n"0": "a cat",', r"line 2: .*found `\"0\": \"a cat\",`. Leave out the quotes"),
            ("0.5: a cat", r"line 1: expected"),
            (f"{'9' * 5000}: a cat", r"line 1: expected"),
            ("0-5-9: a cat", r"line 1: expected"),
            ("16: a cat", r"line 1: frame 16 is not in the clip, which has frames 0 to 15.*set num_frames to 17"),
            ("-17: a cat", r"line 1: frame -17 is not in the clip.*set num_frames to 17"),
            ("3-16: a cat", r"line 1: frame 16 is not"),
            ("12-8: a cat", r"line 1: the range 12-8 runs backwards. Write `8-12`"),
            ("0: a cat\n\n0: a dog", r"line 3: frame 0 has a prompt in line 1 already"),
            ("15: a cat\n-1: a dog", r"line 2: frame 15 has a prompt in line 1"),
            ("8-12: a dog\n4-9: a cat", r"line 2: frame 8 has a prompt in line 1 already \(4-9 and 8-12\)"),
            ("8-12: a dog\n10: a cat", r"line 2: frame 10 has a prompt in line 1"),
            ("", r"no line"),
            ("# all\n\n  # of it", r"no line. Write one `frame: prompt`"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_with_its_line(self, text, message):
        with pytest.raises(SettingsError, match=message):
            parse_travel(text, 16)

    def test_an_unknown_interpolation_names_the_known_ones(self):
        with pytest.raises(SettingsError, match="linear, slerp, hold, ease"):
            parse_travel(TWO, 16, "cubic")

    @given(st.text("0123456789-: #a\n\t", max_size=40) | st.text(max_size=40), st.integers(1, 20))
    def test_any_text_is_read_or_refused_in_words(self, text, num_frames):
        try:
            travel = parse_travel(text, num_frames)
        except SettingsError:
            return
        assert len(travel.blends) == num_frames

    @pytest.mark.parametrize(
        ("prepend", "prompt", "append", "whole"),
        [
            ("", " as, it is,", "", " as, it is,"),
            ("photo, ", "a cat", "", "photo, a cat"),
            ("photo", "a cat", ", 4k", "photo, a cat, 4k"),
            ("photo", "", "4k", "photo, 4k"),
            (" ", "a cat", "\n", "a cat"),
        ],
    )
    def test_texts_in_front_and_behind_are_joined_by_commas(self, prepend, prompt, append, whole):
        assert joined(prepend, prompt, append) == whole

    def test_prepend_and_append_reach_every_prompt(self):
        assert parse_travel(TWO, 16, "linear", "photo", "4k").prompts == ("photo, a cat, 4k", "photo, a dog, 4k")


class TestSchedule:
    """What each frame is made of."""

    def test_one_line_is_one_prompt_all_along(self):
        for closed_loop in (False, True):
            travel = parse_travel("5: a cat", 16, closed_loop=closed_loop)
            assert travel.weights(0) == [1.0] * 16
            assert not travel.cuts

    def test_frames_before_the_first_key_and_after_the_last_hold_these(self):
        travel = parse_travel("4: a cat\n8: a dog", 12)
        assert travel.weights(0) == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0]

    def test_a_range_holds_its_prompt(self):
        travel = parse_travel("0: a cat\n2-4: a dog\n6: a cat", 8)
        assert travel.weights(1) == [0, 0.5, 1, 1, 1, 0.5, 0, 0]
        assert travel.prompts == ("a cat", "a dog")

    def test_hold_steps_at_the_next_key(self):
        assert parse_travel(TWO, 12, "hold").weights(0) == [1.0] * 8 + [0.0] * 4

    def test_ease_is_slow_at_both_ends_and_even_in_the_middle(self):
        weights = parse_travel(TWO, 9, "ease").weights(1)
        assert weights[1] == pytest.approx(3 / 64 - 2 / 512)
        assert weights[4] == 0.5
        assert weights[1] + weights[7] == pytest.approx(1)

    def test_a_closed_loop_travels_from_the_last_key_to_the_first_over_the_end(self):
        travel = parse_travel("2: a cat\n6: a dog", 10, closed_loop=True)
        expected = [2 / 3, 5 / 6, 1, 0.75, 0.5, 0.25, 0, 1 / 6, 1 / 3, 0.5]
        assert travel.weights(0) == pytest.approx(expected)

    def test_a_closed_loop_of_hold_begins_with_the_last_prompt(self):
        assert parse_travel("2: a cat\n6: a dog", 8, "hold", closed_loop=True).weights(1) == [1, 1, 0, 0, 0, 0, 1, 1]

    @given(travels())
    def test_weights_lie_between_0_and_1_and_add_up_to_1(self, travel):
        weights = [travel.weights(prompt) for prompt in range(len(travel.prompts))]
        for frame in range(travel.num_frames):
            shares = [each[frame] for each in weights]
            assert min(shares) >= 0
            assert math.fsum(shares) == pytest.approx(1)

    @given(travels())
    def test_at_a_key_there_is_its_prompt_alone(self, travel):
        for key in travel.keys:
            for frame in range(key.first, key.last + 1):
                assert travel.weights(travel.prompts.index(key.prompt))[frame] == 1

    @pytest.mark.parametrize("name", INTERPOLATIONS)
    def test_every_curve_starts_at_nothing_and_never_falls(self, name):
        values = [CURVES[name](step / 100) for step in range(100)]
        assert values[0] == 0
        assert values == sorted(values)
        assert values[-1] < 1


class TestCuts:
    """Transitions that are too short to be seen."""

    @pytest.mark.parametrize("interpolation", ["linear", "slerp", "ease"])
    @pytest.mark.parametrize(("second", "cuts"), [(1, 1), (3, 1), (4, 0), (8, 0)])
    def test_less_than_four_frames_are_a_cut(self, interpolation, second, cuts):
        assert len(parse_travel(f"0: a cat\n{second}: a dog", 16, interpolation).cuts) == cuts

    def test_hold_and_equal_prompts_have_none(self):
        assert not parse_travel("0: a cat\n1: a dog", 16, "hold").cuts
        assert not parse_travel("0: a cat\n1: a cat", 16).cuts

    def test_the_seam_of_a_loop_counts(self):
        travel = parse_travel("0: a cat\n-1: a dog", 16, closed_loop=True)
        assert [(way.start.line, way.end.line, way.steps) for way in travel.cuts] == [(2, 1, 1)]
        assert not parse_travel("0: a cat\n8: a dog\n-1: a cat", 16, closed_loop=True).cuts


class TestStates:
    """Text states on the way, in float64."""

    def states(self, count=2, tokens=7, width=16):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(1, tokens, width, generator=generator, dtype=torch.float64) for _ in range(count)]

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_keys_and_held_frames_are_bitwise_their_prompt(self, interpolation):
        states = self.states()
        found = travel_states(states, parse_travel("2: a cat\n6-7: a dog", 12, interpolation))
        assert found.shape == (12, 7, 16)
        for frame in (0, 1, 2):
            assert torch.equal(found[frame], states[0][0])
        for frame in (6, 7, 8, 11):
            assert torch.equal(found[frame], states[1][0])

    @pytest.mark.parametrize("interpolation", ["linear", "ease"])
    def test_straight_ways_are_weighted_means(self, interpolation):
        states, travel = self.states(3), parse_travel("0: a\n4: b\n9: c", 12, interpolation)
        weights = torch.tensor([travel.weights(index) for index in range(3)], dtype=torch.float64)
        expected = torch.einsum("pf,pnd->fnd", weights, torch.cat(states))
        torch.testing.assert_close(travel_states(states, travel), expected, rtol=1e-12, atol=1e-12)

    def test_slerp_turns_each_vector_evenly_and_its_length_goes_straight(self):
        first, second = self.states()
        found = [between(first, second, share, "slerp") for share in (0.25, 0.5, 0.75)]
        whole = torch.cosine_similarity(first, second, dim=-1).acos()
        for share, states in zip((0.25, 0.5, 0.75), found, strict=True):
            turned = torch.cosine_similarity(first, states, dim=-1).acos()
            torch.testing.assert_close(turned, share * whole, rtol=1e-9, atol=1e-9)
            lengths = torch.lerp(first.norm(dim=-1), second.norm(dim=-1), share)
            torch.testing.assert_close(states.norm(dim=-1), lengths, rtol=1e-12, atol=1e-12)

    def test_slerp_of_a_quarter_turn_is_the_diagonal(self):
        x, y = torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(between(x, y, 0.5, "slerp"), torch.full((2,), 0.5**0.5, dtype=torch.float64))

    @pytest.mark.parametrize("factor", [1.0, 1.5, -1.0, 0.0])
    def test_slerp_goes_straight_where_there_is_no_arc(self, factor):
        first, _ = self.states()
        straight = between(first, first * factor, 0.3, "linear")
        assert torch.equal(between(first, first * factor, 0.3, "slerp"), straight)

    def test_slerp_meets_the_straight_way_where_the_arc_ends(self):
        """No visible step between two vectors of just more and just less than the limit."""
        limit = math.acos(0.9995)
        x = torch.tensor([1.0, 0.0], dtype=torch.float64)
        for angle in (limit * 0.999, limit * 1.001):
            y = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            difference = between(x, y, 0.5, "slerp") - between(x, y, 0.5, "linear")
            assert difference.abs().max() < 2e-4

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_half_precision_stays_what_it_is(self, interpolation):
        first, second = (states.half() for states in self.states())
        found = between(first, second, 0.4, interpolation)
        assert found.dtype == torch.float16
        assert torch.isfinite(found).all()

    def test_shorter_prompts_are_repeated_to_the_common_length(self):
        short, long = self.states(1, 2)[0], self.states(1, 3)[0]
        first, second = equally_long([short, long])
        assert torch.equal(first, torch.cat([short] * 3, dim=1))
        assert torch.equal(second, torch.cat([long] * 2, dim=1))

    def test_attention_over_repeated_tokens_is_attention_over_the_tokens(self):
        (states,) = self.states(1, 5)
        query = self.states(1, 4)[0]
        attend = torch.nn.functional.scaled_dot_product_attention
        repeated = equally_long([states, torch.zeros(1, 15, 16)])[0]
        torch.testing.assert_close(attend(query, repeated, repeated), attend(query, states, states))

    def test_equal_lengths_are_left_alone(self):
        states = self.states()
        assert all(found is given for found, given in zip(equally_long(states), states, strict=True))

    def test_lengths_without_a_sensible_common_one_are_refused(self):
        states = [torch.zeros(1, 77 * sections, 4) for sections in (1, 3, 4, 5)]
        with pytest.raises(SettingsError, match=r"77, 231, 308, 385 tokens, and 4620"):
            equally_long(states)
