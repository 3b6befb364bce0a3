"""The inputs that all three training nodes share."""

from comfy_api.latest import io

from .sockets import CachedClipsSocket, TrainingSettingsSocket


def shared_inputs(run_name: str) -> list[io.Input]:
    """Model, clips, settings and the run's name, in this order."""
    return [
        io.Model.Input(
            "model",
            tooltip="The base model, SD 1.5 or SDXL, without a motion module. It is copied; the one given is left "
            "alone.",
        ),
        CachedClipsSocket.Input(
            "cached_clips", tooltip="From Cache Training Clips, made with this model's VAE and CLIP."
        ),
        TrainingSettingsSocket.Input("settings", tooltip="From Training Settings."),
        io.String.Input(
            "run_name",
            default=run_name,
            tooltip="The folder of the run under output/motiongraft: checkpoints, metrics, samples and the result.",
        ),
    ]


def rank_input(default: int) -> io.Input:
    """The rank of what is trained."""
    return io.Int.Input(
        "rank",
        default=default,
        min=1,
        max=1024,
        tooltip=f"How much can be learned, and how large the file is. {default} is that of the published files.",
    )


def adapter_input() -> io.Input:
    """A domain adapter that is in place while something else is trained."""
    return io.LoraModel.Input(
        "domain_adapter",
        optional=True,
        tooltip="From Train Domain Adapter. It takes on the look of the clips at α = 1 and is not changed.",
    )


def vae_input() -> io.Input:
    """The VAE of sample clips."""
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Decodes the sample clips: the VAE that the clips were cached with. Without it they are sketches.",
    )


def loss_output() -> io.Output:
    """The loss of every step."""
    return io.LossMap.Output(display_name="loss", tooltip="The loss of every step, for Plot Loss Graph.")
