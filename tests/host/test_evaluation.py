"""EvaluateAnimation on a real ComfyUI: scores are those of transformers, and what does not fit is refused."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from motiongraft.core.errors import IncompatibleModelError, SettingsError, ShapeError
from motiongraft.sampling.clip_scores import score_clip
from motiongraft.tests.tiny_sd_pack.vision_weights import (
    TEXT,
    VISION,
    VisionSize,
    vision_configuration,
    write_tiny_clip,
)

pytestmark = pytest.mark.host

PROMPT = "a red boat on a lake"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pixels. Source: openai/clip-vit-large-patch14 preprocessor_config.json."""
SAME = 1e-4
"""Of a score, which goes to 100: float32 through two layers each."""


@pytest.fixture(scope="module")
def tiny(host, tmp_path_factory):
    """Both halves of a tiny CLIP, loaded by ComfyUI from one file."""
    from motiongraft.tests.tiny_sd_pack.clip_models import load_tiny_text, load_tiny_vision

    path = write_tiny_clip(tmp_path_factory.mktemp("clip") / "whole.safetensors")
    return SimpleNamespace(path=path, clip=load_tiny_text(path), vision=load_tiny_vision(path))


@pytest.fixture(scope="module")
def evaluate(tiny):
    """The node's function, with the tiny models and a prompt unless told otherwise."""
    from motiongraft.host.evaluation import evaluate_animation

    def run(images, **inputs):
        return evaluate_animation(images, **{"prompt": PROMPT, "clip": tiny.clip, "clip_vision": tiny.vision, **inputs})

    return run


def clip_of(frames: int = 6, height: int = 32, width: int = 32, step: int = 1, seed: int = 0) -> torch.Tensor:
    """A cloudy picture that passes to the left. Shapes: `f h w 3`"""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4 + 1, (width + frames * step) // 4 + 1, generator=generator)
    size = (height, width + frames * step)
    whole = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(0, 1)[0]
    return torch.stack([whole[:, :, index * step : index * step + width] for index in range(frames)]).movedim(1, -1)


def transformers_embeddings(path: Path, tokenizer: Path, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' CLIPModel makes of the same file. Shapes: -> `f d`, `d`"""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from motiongraft.tests.tiny_sd_pack.models import text_config

    config = CLIPConfig(
        text_config=text_config(TEXT, "quick_gelu"),
        vision_config=vision_configuration(),
        projection_dim=VISION.projection,
    )
    model = CLIPModel(config).eval()
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    assert [name for name in (*missing, *unexpected) if "position_ids" not in name] == []
    tokens = CLIPTokenizer.from_pretrained(tokenizer)(PROMPT, return_tensors="pt")
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    pixels = ((frames.movedim(-1, 1) * 255).round() / 255 - mean) / deviation
    with torch.no_grad():
        found = model(input_ids=tokens.input_ids, pixel_values=pixels)
    return found.image_embeds, found.text_embeds[0]


def test_scores_are_those_of_transformers_with_the_same_file(tiny, evaluate, host):
    images, references = clip_of(), clip_of(3, seed=1)
    tokenizer = host.path / "comfy" / "sd1_tokenizer"
    frames, text = transformers_embeddings(tiny.path, tokenizer, torch.cat([images, references]))
    expected = score_clip(frames[:6], text, frames[6:])
    found = evaluate(images, reference_images=references).measures.scores
    assert found.text == pytest.approx(expected.text, abs=SAME)
    assert found.domain == pytest.approx(expected.domain, abs=SAME)
    assert found.smoothness == pytest.approx(expected.smoothness, abs=SAME)


def test_a_still_clip_scores_a_hundred_on_smoothness_and_exactly_nothing_on_motion(evaluate):
    found = evaluate(clip_of(1).expand(5, -1, -1, -1))
    assert found.measures.scores.mean_smoothness == pytest.approx(100, abs=1e-4)
    assert found.measures.motion == 0
    assert "stands still" in found.report


def test_a_moving_clip_is_measured_in_shares_of_its_diagonal(evaluate):
    found = evaluate(clip_of(5, 96, 128, step=2)).measures
    assert found.motion_pixels == pytest.approx(2, rel=0.05)
    assert found.motion == pytest.approx(2 / 160 * 100, rel=0.05)
    assert found.scores.mean_smoothness < 100


def test_references_of_another_number_and_size_give_a_domain_score(evaluate):
    images = clip_of()
    found = evaluate(images, reference_images=clip_of(1, 40, 56))
    assert -100 <= found.measures.scores.mean_domain <= 100
    assert evaluate(images, reference_images=images[:1]).measures.scores.domain[0] == pytest.approx(100, abs=1e-4)


def test_without_references_the_domain_score_is_nan_and_the_report_says_why(evaluate):
    found = evaluate(clip_of())
    assert math.isnan(found.measures.scores.mean_domain)
    assert "no reference_images are connected" in found.report


def test_frames_in_many_batches_are_measured_as_in_one(evaluate, monkeypatch):
    """20 frames are two batches for CLIP; the optical flow is given room for three pairs."""
    from motiongraft.host import evaluation

    images = clip_of(20)
    whole, part = evaluate(images).measures, evaluate(images[15:18]).measures
    assert whole.scores.text[15:18] == pytest.approx(part.scores.text, abs=SAME)
    monkeypatch.setattr(evaluation, "PIXELS_AT_ONCE", 3 * 32 * 32)
    in_parts = evaluate(images).measures
    assert in_parts.motions == pytest.approx(whole.motions, rel=1e-4)
    assert len(in_parts.changes) == 19


def test_windows_and_loops_are_measured_where_they_are_asked_for(evaluate):
    images = clip_of(12)
    plain = evaluate(images)
    assert (plain.measures.seams, plain.measures.loop) == (None, None)
    assert "seams: not measured" in plain.report
    found = evaluate(images, window_length=6, window_overlap=2, closed_loop=True).measures
    assert found.seams is not None
    assert found.seams.pairs == (3, 5, 9)  # windows hold frames 0 to 5, 4 to 9 and 6 to 11
    assert found.loop is not None
    assert found.loop.residual > 10


def test_a_clip_within_one_window_has_no_seams_and_the_report_says_so(evaluate):
    assert "6 frames fit into one window of 16" in evaluate(clip_of(), window_length=16, window_overlap=4).report


def test_the_text_encoder_of_sdxl_that_has_a_projection_is_chosen(scene, evaluate):
    from motiongraft.host.clip_embeddings import embed_text

    clip = scene.sdxl.clip
    vector = embed_text(clip, PROMPT, 32).vector
    assert torch.equal(vector, scene.host.encode(clip, PROMPT)[0][1]["pooled_output"][0])
    assert math.isfinite(evaluate(clip_of(), clip=clip).measures.scores.mean_text)


def test_the_clip_encodes_afterwards_what_it_encoded_before(tiny, host, evaluate):
    before = host.encode(tiny.clip, PROMPT)
    evaluate(clip_of())
    after = host.encode(tiny.clip, PROMPT)
    assert torch.equal(before[0][0], after[0][0])
    assert torch.equal(before[0][1]["pooled_output"], after[0][1]["pooled_output"])


def test_weights_in_brackets_do_not_count_and_long_prompts_are_noted(tiny, evaluate):
    from motiongraft.host.clip_embeddings import embed_text

    plain = embed_text(tiny.clip, "a red boat", 32)
    weighted = embed_text(tiny.clip, "a (red:1.4) boat", 32)
    torch.testing.assert_close(weighted.vector, plain.vector)  # not bit for bit: ComfyUI encodes two prompts at once
    assert not plain.is_cut
    assert "its beginning was compared" in evaluate(clip_of(), prompt="boat " * 100).report


def refused(tiny, **inputs) -> str:
    """What the function says of this input."""
    from motiongraft.host.evaluation import evaluate_animation

    given = {"images": clip_of(), "prompt": PROMPT, "clip": tiny.clip, "clip_vision": tiny.vision, **inputs}
    with pytest.raises((IncompatibleModelError, SettingsError, ShapeError)) as refusal:
        evaluate_animation(**given)
    return str(refusal.value)


def test_a_checkpoint_of_sd15_has_no_projection_and_the_error_says_which_file_has(tiny, scene):
    said = refused(tiny, clip=scene.checkpoint.clip)
    assert "text encoder l of tiny.safetensors has none" in said


def test_a_text_encoder_without_projection_is_refused(tiny, tmp_path):
    from motiongraft.tests.tiny_sd_pack.clip_models import load_tiny_text

    clip = load_tiny_text(write_tiny_clip(tmp_path / "clip_l.safetensors", text_projection=False))
    assert "clip_l.safetensors has none" in refused(tiny, clip=clip)


def test_the_file_that_has_a_projection_is_named_for_the_width_that_needs_it(tiny, scene):
    from motiongraft.host.clip_embeddings import PAIRS

    assert "openai/clip-vit-large-patch14" in PAIRS[768]
    assert "clip_vision_g" in PAIRS[1280]


@pytest.mark.parametrize("kind", ["identity", "zeros", "unset", "huge"])
def test_what_stands_in_place_of_a_projection_is_told_from_one(host, kind):
    from motiongraft.host.clip_embeddings import is_projection

    trained = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    unset = trained.clone()
    unset[3, 4] = torch.nan
    huge = trained.clone()
    huge[3, 4] = 3e38
    others = {"identity": torch.eye(32), "zeros": torch.zeros(32, 32), "unset": unset, "huge": huge}
    assert is_projection(trained)
    assert is_projection(trained.half())
    assert not is_projection(others[kind])


def test_an_identity_in_a_file_is_refused(tiny, tmp_path):
    from motiongraft.tests.tiny_sd_pack.clip_models import load_tiny_text

    path = write_tiny_clip(tmp_path / "identity.safetensors")
    save_file({**load_file(path), "text_projection.weight": torch.eye(32)}, path)
    assert "identity.safetensors has none" in refused(tiny, clip=load_tiny_text(path))


def test_halves_of_different_clips_are_refused_with_both_widths(tiny, tmp_path):
    from motiongraft.tests.tiny_sd_pack.clip_models import load_tiny_vision

    other = VisionSize(width=48, layers=2, projection=40)
    vision = load_tiny_vision(write_tiny_clip(tmp_path / "other.safetensors", vision=other), other)
    said = refused(tiny, clip_vision=vision)
    assert "40 wide" in said
    assert "text encoder l 32 wide" in said


def test_a_vision_model_without_projection_is_refused(tiny, host):
    configuration = {key: value for key, value in vision_configuration().items() if key != "projection_dim"}
    vision = host.module("comfy.clip_vision").ClipVisionModel(configuration)
    assert "visual_projection" in refused(tiny, clip_vision=vision)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"images": clip_of(1)}, "two frames or more, found 1"),
        ({"images": clip_of(3, 8, 32)}, "16 pixels a side, found 32×8"),
        ({"images": clip_of().mul(torch.tensor([1.0, 1, math.nan]))}, "frame 0 of images holds NaN"),
        ({"images": torch.cat([clip_of(), clip_of()[..., :1]], -1)}, "3 channels, found 4"),
        ({"reference_images": clip_of().div(0)}, "image 0 of reference_images holds NaN"),
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"clip": None}, "expected a CLIP"),
        ({"clip_vision": None}, "clip_vision should project"),
        ({"window_length": 8, "window_overlap": 8}, "overlap 8 must be smaller than length 8"),
        ({"window_length": 1}, "length 2 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(tiny, inputs, words):
    assert words in refused(tiny, **inputs)


def test_cancelling_stops_it_and_leaves_the_models_usable(host, evaluate):
    management = host.module("comfy.model_management")
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        evaluate(clip_of())
    evaluate(clip_of())


@pytest.mark.parametrize(("frames", "length"), [(2, 0), (3, 2), (70, 4)])
def test_a_chart_of_any_clip_is_a_picture_of_one_size(evaluate, frames, length):
    found = evaluate(clip_of(frames), window_length=length, closed_loop=True)
    assert found.chart.shape == (1, 912, 1280, 3)
    assert 0 <= float(found.chart.min()) < float(found.chart.max()) <= 1


def test_the_node_has_the_promised_inputs_and_outputs(host):
    from motiongraft.nodes.evaluate_animation import EvaluateAnimation

    schema = EvaluateAnimation.define_schema()
    assert (schema.node_id, schema.category) == ("MotionGraft_EvaluateAnimation", "MotionGraft")
    assert [each.id for each in schema.inputs] == [
        *("images", "prompt", "clip", "clip_vision", "reference_images"),
        *("window_length", "window_overlap", "closed_loop"),
    ]
    assert [each.io_type for each in schema.outputs] == ["FLOAT"] * 4 + ["STRING"]
    assert all(each.tooltip for each in (*schema.inputs, *schema.outputs))


def test_the_node_gives_numbers_and_shows_chart_and_report(host, tiny):
    from motiongraft.nodes.evaluate_animation import EvaluateAnimation

    output = EvaluateAnimation.execute(images=clip_of(), prompt=PROMPT, clip=tiny.clip, clip_vision=tiny.vision)
    text, domain, smoothness, motion, report = output.args
    assert all(isinstance(number, float) for number in (text, domain, smoothness, motion))
    assert f"{smoothness:.2f} of 100" in report
    assert output.ui["text"] == (report,)
    (picture,) = output.ui["images"]
    assert (Path(host.module("folder_paths").get_temp_directory()) / picture["filename"]).is_file()


def test_comfyui_gives_the_node_its_own_prompt_and_not_the_queued_graph(host):
    """A node with a preview also has ComfyUI's hidden input of that name."""
    from motiongraft.nodes.evaluate_animation import EvaluateAnimation

    found, missing, _ = host.module("execution").get_input_data({"prompt": PROMPT}, EvaluateAnimation, "1")
    assert (found, missing) == ({"prompt": [PROMPT]}, {})
