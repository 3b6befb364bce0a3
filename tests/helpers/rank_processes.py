"""Several processes of one run, forked from the test's own, and a toy model that they train together."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motiongraft.sampling.beta_schedules import BETA_SCHEDULES
from motiongraft.tests.helpers.training_runs import Witness
from motiongraft.training.batches import TrainingData, stacked_states
from motiongraft.training.cache.cached_clips import CachedClips
from motiongraft.training.denoiser import NOISE, Conditioning
from motiongraft.training.loop import TrainingLoop
from motiongraft.training.noise_schedule import signal_shares
from motiongraft.training.ranks import OneRank, ProcessGroup, Ranks
from motiongraft.training.runs.job import Job
from motiongraft.training.runs.run_folder import open_run
from motiongraft.training.settings import TrainingSettings
from motiongraft.training.trainee import MOTION_MODULE, Trainee

TIMEOUT_S = 60.0
SHARES = signal_shares(BETA_SCHEDULES["animatediff"])


class ToyDenoiser:
    """Predicts noise from each latent pixel, its timestep and the caption, through two linear layers."""

    checkpointing = False
    device = torch.device("cpu")
    predicts = NOISE
    base_alphas = SHARES

    def __init__(self, text_width: int = 32):
        generator = torch.Generator().manual_seed(5)
        self.module = nn.Sequential(nn.Linear(5 + text_width, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(2, 2))
        with torch.no_grad():
            for weight in self.module.parameters():  # the last layer is used by nobody and must stay as it is
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)

    def free_memory(self) -> int:
        return 2**33

    def scale_latents(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, num_frames: int) -> Tensor:
        pixels = noisy.permute(0, 2, 3, 1)
        told = torch.cat([timesteps.view(-1, 1) / 1000, stacked_states(conditioning.texts).mean(1)], 1)
        told = told.repeat_interleave(num_frames, 0)[:, None, None].expand(*pixels.shape[:3], -1)
        return self.module[:3](torch.cat([pixels, told], -1)).permute(0, 3, 1, 2).contiguous()


def toy_loop(
    cached: CachedClips, settings: TrainingSettings, ranks: Ranks | None = None, run: Any = None, observer: Any = None
) -> TrainingLoop:
    """A loop around a toy model, the same in every process."""
    denoiser = ToyDenoiser()
    trainee = Trainee(MOTION_MODULE, denoiser.module, SHARES, dict)
    data = TrainingData(cached, settings, single_frames=False)
    return TrainingLoop(denoiser, trainee, data, settings, run, observer or Witness(), ranks)


def toy_run(root: Path, cached: CachedClips, settings: TrainingSettings, ranks: Ranks, observer: Any = None) -> Any:
    """Losses and weights of a run in `root`/run, as each of its processes carries it out."""
    if ranks.rank:
        return toy_loop(cached, settings, ranks, None, observer).run()
    with open_run(root, "run", Job(MOTION_MODULE, {}, settings, {}, {})) as run:
        return toy_loop(cached, settings, ranks, run, observer).run()


def in_ranks(count: int, work: Callable[[Ranks], Any], timeout: float = TIMEOUT_S) -> list[Any]:
    """What some work returns, or the exception that it raises, in each of several processes; None if one was killed."""
    if count == 1:
        return [_result(lambda: work(OneRank()))]

    def grouped() -> Any:
        group = ProcessGroup(False, timeout)
        result = _result(lambda: work(group))
        group.close()
        return result

    return in_processes(count, grouped)


def in_processes(count: int, work: Callable[[], Any]) -> list[Any]:
    """The same in processes that know their place by their environment, as torchrun starts them."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_in_process, args=(environment_of(rank, count, port), work, sender))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    results = [_received(receiver) for receiver, _ in pipes]
    for process in processes:
        process.join(TIMEOUT_S)
        assert process.exitcode is not None, "a process of the group did not end"
    return results


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment_of(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables by which a process finds its group."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), **place}


def _in_process(environment: dict[str, str], work: Callable[[], Any], sender: Any) -> None:
    os.environ.update(environment)
    sender.send(_result(work))


def _result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - it is the result
        return error


def _received(receiver: Any) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return None
