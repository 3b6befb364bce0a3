"""Caching with ComfyUI's own VAE and CLIP: what the graph would compute, literally, and the same every time."""

import copy

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, RunError, SettingsError, TrainingDataError
from motiongraft.tests.helpers.cached_sets import as_set, changed, toy_clips
from motiongraft.tests.tiny_sd_pack import checkpoints

HALF = 1e-3
"""float16 keeps eleven bits: relative to the largest number."""
CAPTION = "a (red) cat :) \\(:1.3) ((x:2"


@pytest.fixture(scope="module")
def caching(host):
    from motiongraft.host import caching

    return caching


@pytest.fixture(scope="module")
def encoder(caching, scene):
    return caching.ComfyEncoder(scene.checkpoint.vae, scene.checkpoint.clip)


@pytest.fixture
def name(host, tmp_path):
    """A cache_name, with the output folder of ComfyUI at `tmp_path`."""
    folder_paths = host.module("folder_paths")
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield "my clips"
    folder_paths.set_output_directory(before)


def clips_of(cached):
    return {
        clip.name: clip
        for bucket, kind in enumerate(cached.buckets)
        for number in range(kind.count)
        for clip in [cached.clip(bucket, number)]
    }


def assert_close(half, full):
    assert half.dtype == torch.float16
    assert (half.float() - full).abs().max() <= HALF * full.abs().max()


def states(scene, text, clip=None):
    clip = clip or scene.checkpoint.clip
    return scene.host.encode(clip, text)[0]


def test_latents_and_text_states_are_those_of_the_graph(caching, scene, name, tmp_path):
    clips = changed(toy_clips(3), 1, caption=" ".join(["a long story"] * 40))
    with torch.inference_mode():  # as ComfyUI runs nodes
        cached = caching.cache_training_clips(clips, scene.checkpoint.vae, scene.checkpoint.clip, name)
        found = clips_of(cached)
    assert cached.folder == tmp_path / "motiongraft" / "caches" / name
    assert (cached.text_width, cached.pooled_width) == (32, None)
    for clip in clips.clips:
        with torch.inference_mode():
            assert_close(found[clip.name].latents, scene.checkpoint.vae.encode(clip.read()))
        assert_close(found[clip.name].text.states, states(scene, clip.caption)[0][0])
        assert found[clip.name].text.pooled is None
    assert len(found["clip 1"].text.states) == 154
    assert_close(cached.empty_text.states, states(scene, "")[0][0])
    tensors = [tensor for clip in found.values() for tensor in (clip.latents, clip.text.states)]
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in tensors)
    torch.nn.Linear(8, 8)(tensors[0].float()).sum().backward()


def test_what_the_encoder_returns_can_be_trained_on(encoder):
    with torch.inference_mode():
        latents = encoder.encode_frames(torch.rand(2, 64, 64, 3), 0)
        text = encoder.encode_text("a cat")
    for tensor in (latents, text.states):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        assert tensor.device.type == "cpu"


def test_sdxl_stores_pooled_states(caching, scene, name):
    cached = caching.cache_training_clips(toy_clips(2), scene.sdxl.vae, scene.sdxl.clip, name)
    assert (cached.text_width, cached.pooled_width) == (64, 32)
    for clip in clips_of(cached).values():
        full, details = states(scene, clip.caption, scene.sdxl.clip)
        assert_close(clip.text.states, full[0])
        assert_close(clip.text.pooled, details["pooled_output"][0])


# Captions


def plain_tokens(clip, text):
    """The tokens of a text, by the tokenizer alone."""
    return clip.tokenizer.clip_l.tokenizer(text)["input_ids"][1:-1]


def tokens_of(clip, text):
    """The tokens that ComfyUI makes of a prompt, without start and end, and their weights."""
    pairs = [pair for section in clip.tokenize(text)["l"] for pair in section]
    ends = (49406, 49407)
    return [token for token, _ in pairs if token not in ends], {weight for _, weight in pairs}


@pytest.mark.parametrize(
    "caption",
    [
        "a cat",
        CAPTION,
        "(masterpiece:1.2), a cat (on the moon)",
        "back\\slash and \\(bracket\\)",
        "embedding:evil",
        "a cat embedding:evil, a dog\nembedding:evil",
        "((((",
        "",
    ],
)
def test_every_character_of_a_caption_is_literal(caching, scene, caption):
    clip = scene.checkpoint.clip
    assert tokens_of(clip, caching.literal(caption)) == (plain_tokens(clip, caption), {1.0})


def test_the_same_caption_as_a_prompt_would_be_weighted(scene):
    tokens, weights = tokens_of(scene.checkpoint.clip, CAPTION)
    assert weights != {1.0}
    assert tokens != plain_tokens(scene.checkpoint.clip, CAPTION)


def test_a_caption_loads_no_embedding(encoder, scene, base_directory):
    folder = base_directory / "models" / "embeddings"
    folder.mkdir(exist_ok=True)
    torch.save({"string_to_param": {"*": torch.ones(1, 32)}}, folder / "evil.pt")
    clip = scene.host.module("comfy.sd").CLIP(no_init=True)
    clip.__dict__.update(scene.checkpoint.clip.__dict__)
    tokenizer = clip.tokenizer.clip_l
    before = tokenizer.embedding_directory, tokenizer.embedding_size
    tokenizer.embedding_directory, tokenizer.embedding_size = [str(folder)], 32
    try:
        loaded = encoder.clip.tokenize("a embedding:evil")["l"][0]
        assert any(isinstance(token, torch.Tensor) for token, _ in loaded)  # the prompt would load it
        literal = encoder.encode_text("a embedding:evil").states
    finally:
        tokenizer.embedding_directory, tokenizer.embedding_size = before
        (folder / "evil.pt").unlink()
    assert torch.equal(literal, encoder.encode_text("a embedding:evil").states)


# Randomness


def test_a_vae_that_adds_noise_draws_it_from_the_seed_and_leaves_the_rest_alone(encoder, monkeypatch):
    model = encoder.vae.first_stage_model
    encode = model.encode

    def noisy(pixels):
        latents = encode(pixels)
        return latents + torch.randn_like(latents)

    monkeypatch.setattr(model, "encode", noisy)
    frames = torch.rand(3, 64, 64, 3)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first, second, other = (encoder.encode_frames(frames, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# Identity of models


def test_hashes_do_not_depend_on_what_comfyui_did_with_a_model(caching, scene, encoder):
    scene.host.module("comfy.model_management").unload_all_models()
    again = caching.ComfyEncoder(scene.checkpoint.vae, scene.checkpoint.clip)
    assert (again.vae_hash, again.clip_hash) == (encoder.vae_hash, encoder.clip_hash)
    twin = scene.host.load_checkpoint(scene.folder / "tiny.safetensors")
    again = caching.ComfyEncoder(twin.vae, twin.clip.clone())
    assert (again.vae_hash, again.clip_hash) == (encoder.vae_hash, encoder.clip_hash)


def patched(clip, strength=1.0, seed=0):
    """A clone of a CLIP with a change of one weight."""
    name = next(name for name in clip.patcher.model.state_dict() if name.endswith("q_proj.weight"))
    shape = clip.patcher.model.state_dict()[name].shape
    change = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    clone = clip.clone()
    assert clone.add_patches({name: ("diff", (change,))}, strength)
    return clone


def test_patches_and_skipped_layers_make_another_text_encoder(caching, scene, encoder):
    vae, clip = scene.checkpoint.vae, scene.checkpoint.clip
    skipped = clip.clone()
    skipped.clip_layer(-2)
    variants = [clip, patched(clip), patched(clip, 0.5), patched(clip, seed=1), skipped, scene.sdxl.clip]
    assert len({caching.ComfyEncoder(vae, variant).clip_hash for variant in variants}) == len(variants)
    assert caching.ComfyEncoder(vae, patched(clip)).clip_hash == caching.ComfyEncoder(vae, patched(clip)).clip_hash


def test_a_patch_that_is_merged_in_just_now_counts_once(caching, scene, encoder):
    vae, clip = scene.checkpoint.vae, scene.checkpoint.clip
    patched_clip = patched(clip)
    before = caching.ComfyEncoder(vae, patched_clip).clip_hash
    plain = encoder.encode_text("a cat").states
    merged = caching.ComfyEncoder(vae, patched_clip).encode_text("a cat").states
    assert not torch.equal(plain, merged)
    assert caching.ComfyEncoder(vae, patched_clip).clip_hash == before
    assert caching.ComfyEncoder(vae, clip).clip_hash == encoder.clip_hash  # its weights hold the other's patch now
    assert torch.equal(encoder.encode_text("a cat").states, plain)


def test_the_hash_of_a_vae_is_that_of_its_weights(encoder):
    from motiongraft.host.fingerprints import fingerprint_module

    model = encoder.vae.first_stage_model
    assert encoder.vae_hash == fingerprint_module(model)
    other = copy.deepcopy(model)
    assert fingerprint_module(other) == encoder.vae_hash
    with torch.inference_mode():
        next(other.parameters()).data.view(-1)[0] += 1
    assert fingerprint_module(other) != encoder.vae_hash


def test_fingerprints_see_names_types_shapes_and_numbers(host):
    from motiongraft.host.fingerprints import fingerprint_tensors

    zeros = torch.zeros(2, 3)
    tensors = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.half()},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros, "b": zeros},
        {"a": zeros + 1},
        {"a": torch.zeros(())},
    ]
    assert len({fingerprint_tensors(one) for one in tensors}) == len(tensors)
    assert fingerprint_tensors({"a": zeros, "b": zeros + 1}) == fingerprint_tensors({"b": zeros + 1, "a": zeros})


def test_another_vae_or_clip_is_refused_and_the_same_go_on(caching, scene, name):
    vae, clip = scene.checkpoint.vae, scene.checkpoint.clip
    first = caching.cache_training_clips(toy_clips(2), vae, clip, name)
    with pytest.raises(TrainingDataError, match=f"the cache {name} was made with another VAE"):
        caching.cache_training_clips(toy_clips(2), scene.sdxl.vae, clip, name)
    with pytest.raises(TrainingDataError, match=f"the cache {name} was made with another text encoder"):
        caching.cache_training_clips(toy_clips(2), vae, patched(clip), name)
    assert caching.cache_training_clips(toy_clips(2), vae, clip, name).fingerprint == first.fingerprint


# What is refused


def test_only_vaes_of_still_images_with_four_channels_fit(caching, scene, monkeypatch):
    vae, clip = scene.checkpoint.vae, scene.checkpoint.clip
    for attribute, value, words in (
        ("latent_channels", 16, "16 channels"),
        ("latent_dim", 3, "for video"),
        ("downscale_ratio", (lambda frames: frames, 8, 8), "Connect the VAE of the base model"),
        ("first_stage_model", None, "checkpoint without one"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(vae, attribute, value)
            with pytest.raises(IncompatibleModelError, match=words):
                caching.ComfyEncoder(vae, clip)
    for missing in ((None, clip), (vae, None)):
        with pytest.raises(IncompatibleModelError, match="checkpoint without one"):
            caching.ComfyEncoder(*missing)


def test_text_encoders_of_other_models_are_refused(caching, scene, monkeypatch):
    clip = scene.checkpoint.clip.clone()
    monkeypatch.setattr(clip, "tokenize", lambda text: {"t5xxl": [], "l": []})
    with pytest.raises(IncompatibleModelError, match="found text encoders l, t5xxl"):
        caching.ComfyEncoder(scene.checkpoint.vae, clip)


def test_a_clip_with_hooks_is_refused(caching, scene):
    clip = scene.checkpoint.clip.clone()
    clip.apply_hooks_to_conds = scene.host.module("comfy.hooks").HookGroup()
    with pytest.raises(IncompatibleModelError, match="with hooks"):
        caching.ComfyEncoder(scene.checkpoint.vae, clip)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", ".hidden", "a/b", "a\\b", "a:b", "end.", "end ", "a\nb", "x" * 101, "a*"]
)
def test_names_that_are_no_folder_are_refused(caching, bad):
    with pytest.raises(SettingsError, match="cache_name should be letters"):
        caching.cache_folder(bad)


@pytest.mark.parametrize("good", ["my_clips", "a", "Zoom in 2.1-b", "猫", "x" * 100])
def test_other_names_are_folders(caching, good):
    assert caching.cache_folder(good).name == good


# In the graph


def test_a_cancelled_prompt_stops_caching_and_the_next_goes_on(caching, scene, name, monkeypatch):
    management = scene.host.module("comfy.model_management")
    encoded = []
    encode = caching.ComfyEncoder.encode_frames

    def counting(self, frames, seed):
        encoded.append(seed)
        if len(encoded) == 3:
            management.interrupt_current_processing()
        return encode(self, frames, seed)

    monkeypatch.setattr(caching.ComfyEncoder, "encode_frames", counting)
    monkeypatch.setattr("motiongraft.training.cache.cache_plan.CLIPS_PER_SHARD", 1)
    with pytest.raises(management.InterruptProcessingException):
        caching.cache_training_clips(toy_clips(5), scene.checkpoint.vae, scene.checkpoint.clip, name)
    encoded.clear()
    monkeypatch.setattr(caching.ComfyEncoder, "encode_frames", encode)
    assert len(caching.cache_training_clips(toy_clips(5), scene.checkpoint.vae, scene.checkpoint.clip, name)) == 5


def test_a_cancelled_prompt_also_stops_where_nothing_is_encoded(caching, scene, name):
    management = scene.host.module("comfy.model_management")
    encoder = caching.ComfyEncoder(scene.checkpoint.vae, scene.checkpoint.clip)
    caching.cache_training_clips(toy_clips(2), encoder.vae, encoder.clip, name)
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        caching.cache_training_clips(toy_clips(2), encoder.vae, encoder.clip, name)


def test_progress_reaches_the_editor(caching, scene, name):
    utils = scene.host.module("comfy.utils")
    seen = []
    before = utils.PROGRESS_BAR_HOOK
    utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total)))
    try:
        caching.cache_training_clips(toy_clips(3), scene.checkpoint.vae, scene.checkpoint.clip, name)
    finally:
        utils.set_progress_bar_global_hook(before)
    assert seen[0] == (0, 3)
    assert (3, 3) in seen


def test_a_stamp_stays_when_a_cache_is_made_and_changes_when_it_is_touched(caching, scene, name):
    def cache():
        return caching.cache_training_clips(toy_clips(2), scene.checkpoint.vae, scene.checkpoint.clip, name)

    stamps = [caching.cache_stamp(name)]
    cached = cache()
    assert caching.cache_stamp(name) == stamps[0]  # the second prompt takes the result of the first
    cache()
    assert caching.cache_stamp(name) == stamps[0]
    (cached.folder / "index.json").unlink()
    stamps.append(caching.cache_stamp(name))
    cache()
    assert caching.cache_stamp(name) == stamps[1]
    shard = next((cached.folder / "latents").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-2])
    stamps.append(caching.cache_stamp(name))
    assert len(set(stamps)) == 3


def test_the_node_offers_what_it_needs(caching, scene, name):
    from motiongraft.nodes.cache_training_clips import CacheTrainingClips

    schema = CacheTrainingClips.define_schema()
    assert [one.id for one in schema.inputs] == ["clips", "vae", "clip", "cache_name"]
    assert all(one.tooltip for one in schema.inputs)
    output = CacheTrainingClips.execute(toy_clips(2), scene.checkpoint.vae, scene.checkpoint.clip, name)
    assert output.result is not None
    assert len(output.result[0]) == 2
    assert CacheTrainingClips.fingerprint_inputs(cache_name=name, clips=None) == caching.cache_stamp(name)


def test_a_cache_in_use_is_not_written(caching, scene, name):
    from motiongraft.training.cache.cache_lock import locked

    caching.cache_folder(name).mkdir(parents=True)
    with locked(caching.cache_folder(name)), pytest.raises(RunError, match="is being written by process"):
        caching.cache_training_clips(as_set(toy_clips(1).clips), scene.checkpoint.vae, scene.checkpoint.clip, name)


def test_another_checkpoint_is_another_vae(caching, scene, tmp_path, encoder):
    other = scene.host.load_checkpoint(checkpoints.write_tiny_sdxl(tmp_path / "other.safetensors"))
    assert caching.ComfyEncoder(other.vae, scene.checkpoint.clip).vae_hash != encoder.vae_hash
