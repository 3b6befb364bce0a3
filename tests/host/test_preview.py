"""The animated preview sends small files to whoever watches, and nothing to nobody."""

import asyncio

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def server(host):
    """ComfyUI's own server object, which collects messages in a queue until its loop sends them."""
    loop = asyncio.new_event_loop()
    yield host.module("server").PromptServer(loop)
    loop.close()


@pytest.fixture
def sent(server):
    """Everything that was given to the server since the last look, as (event, message, client)."""

    def drain():
        server.loop.run_until_complete(asyncio.sleep(0))
        return [server.messages.get_nowait() for _ in range(server.messages.qsize())]

    drain()
    return drain


@pytest.fixture
def preview(scene, server, monkeypatch, tmp_path):
    """An AnimatedPreview, as a client with or without an editor would have it, and the folder of its files."""
    from motiongraft.host import preview as module

    progress = scene.host.module("comfy_execution.progress")
    graph = scene.host.module("comfy_execution.graph")
    progress.reset_progress_state("prompt", graph.DynamicPrompt({"7": {}}))
    monkeypatch.setattr(module.folder_paths, "get_temp_directory", lambda: str(tmp_path))

    def make(client_id="editor", sockets=("editor",), node_id="7", model=scene.model):
        monkeypatch.setattr(server, "client_id", client_id)
        monkeypatch.setattr(server, "sockets", dict.fromkeys(sockets))
        return module.AnimatedPreview(model, node_id), tmp_path / module.SUBFOLDER

    return make


def test_an_editor_gets_a_clip_of_all_frames(preview, sent):
    shown, folder = preview()
    shown.show(torch.randn(16, 4, 8, 8), 1, 25)
    ((event, message, client_id),) = sent()
    assert (event, client_id) == ("motiongraft.preview", "editor")
    assert (message["node_id"], message["display_node_id"], message["prompt_id"]) == ("7", "7", "prompt")
    assert (message["step"], message["total_steps"], message["frames"]) == (1, 25, 16)
    with Image.open(folder / message["filename"]) as picture:
        assert picture.n_frames == 16


def test_a_clip_of_sdxl_is_shown_in_the_colours_of_its_latents(preview, scene, sent, monkeypatch):
    """What SampleAnimation shows last is the clip that it gives, by SDXL's colours of latents and not SD 1.5's."""
    from motiongraft.host import preview as module
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.sampling import sample_animation
    from motiongraft.sampling.latent_preview import latent_to_rgb

    written = []
    monkeypatch.setattr(module, "write_animation", lambda path, frames: written.append(frames))
    model = inflate_model(scene.sdxl.model, scene.motion("sdxl-beta"), "auto")
    states = scene.host.encode(scene.sdxl.clip, "a cat")
    shown, _ = preview(model=model)
    settings = (states, states, {"samples": scene.latent(8)}, 0, 3, 7.5, "euler", "ddim_uniform", 1.0)
    clip = model.model.process_latent_in(sample_animation(model, *settings, preview=shown)["samples"])
    assert [message["step"] for event, message, _ in sent() if event == "motiongraft.preview"][-1] == 3
    own, other = (each.get_model_object("latent_format") for each in (model, scene.model))
    pictures = [latent_to_rgb(clip, each.latent_rgb_factors, each.latent_rgb_factors_bias) for each in (own, other)]
    differences = [(written[-1].int() - picture.int()).abs().max() for picture in pictures]
    assert differences[0] <= 1  # float32, rounded to bytes
    assert differences[1] > 10


@pytest.mark.parametrize(
    "nobody", [{"client_id": None}, {"client_id": "script", "sockets": ()}, {"node_id": None}], ids=str
)
def test_without_an_editor_nothing_is_made_or_sent(preview, sent, nobody):
    shown, folder = preview(**nobody)
    shown.show(torch.randn(16, 4, 8, 8), 25, 25)
    assert sent() == []
    assert not folder.exists()


def test_steps_in_quick_succession_send_the_first_and_the_last(preview, sent):
    shown, folder = preview()
    for step in range(1, 11):
        shown.show(torch.randn(4, 4, 8, 8), step, 10)
    assert [message["step"] for _, message, _ in sent()] == [1, 10]
    assert len(list(folder.iterdir())) == 2


def test_old_files_are_removed(preview, sent, monkeypatch):
    from motiongraft.host import preview as module

    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    shown, folder = preview()
    for step in range(1, 11):
        shown.show(torch.randn(4, 4, 8, 8), step, 10)
    assert len(sent()) == 10
    assert len(list(folder.iterdir())) == module.FILES_KEPT


def test_a_disk_that_cannot_be_written_costs_the_preview_and_not_the_clip(preview, sent, caplog):
    shown, folder = preview()
    folder.write_text("a file where the folder should be")
    shown.show(torch.randn(4, 4, 8, 8), 1, 10)
    assert sent() == []
    assert "no animated preview" in caplog.text
