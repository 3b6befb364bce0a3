"""The training loop of all three stages. It knows no host: a denoiser, a trainee and a run folder are handed to it.

Where several processes share a run, each has a loop of its own, and all take the same steps. The first alone touches
the run's folder, measures, and speaks to the observer's user.
"""

import logging
import math
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import RunError, some
from .batches import TrainingData
from .denoiser import Denoiser
from .draws import Draw
from .guards import BadSteps, check_finite
from .loss import Objective
from .memory_plan import GIBIBYTE, MemoryPlan, fit_to_memory, kept_bytes, needed_bytes
from .optimizer import MovingAverage, learning_rate_at, make_optimizer, optimizer_tensors, restore_optimizer
from .progress import Observer, StepClock, StepReport
from .ranks import OneRank, Ranks, together
from .runs.checkpoints import Checkpoint, read_checkpoint
from .runs.disk_space import check_free_space
from .runs.run_folder import RunFolder
from .settings import TrainingSettings
from .shared_gradient import SharedGradient
from .trainee import Trainee
from .validation import Validation

log = logging.getLogger(__name__)

VALIDATION, SAMPLE = "validation", "sample"
"""Lines of metrics beside those of the steps."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run ends with; empty in every process but the first."""

    tensors: dict[str, Tensor]
    """In the published layout, in float32 on the CPU: the moving average where one is kept."""
    losses: list[float]
    """Of every step since the run began."""


class TrainingLoop:
    """A run, from wherever its folder stands to its last step."""

    def __init__(
        self,
        denoiser: Denoiser,
        trainee: Trainee,
        data: TrainingData,
        settings: TrainingSettings,
        run: RunFolder | None,
        observer: Observer,
        ranks: Ranks | None = None,
    ):
        """`run` is None in every process but the first."""
        trainee.check()
        self.denoiser, self.trainee, self.data = denoiser, trainee, data
        self.settings, self.observer = settings, observer
        self.ranks: Ranks = ranks or OneRank()
        self.is_first = self.ranks.rank == 0
        self.parameters = trainee.parameters
        self.optimizer = make_optimizer(self.parameters.values(), settings)
        self.shared_gradient = SharedGradient(self.ranks, list(self.parameters.values()))
        self.average = MovingAverage(settings.ema, self.parameters) if settings.ema and self.is_first else None
        self.scaler = torch.amp.grad_scaler.GradScaler(denoiser.device.type, enabled=settings.precision == "fp16")
        self.validation = Validation(data, Objective(trainee.shares))
        self.objective = Objective(trainee.shares, settings.min_snr)
        self.step = 0
        self.good_step = 0
        """The last step whose gradient was finite; the weights are those after it."""
        self.best: float | None = None
        """The lowest validation loss of a checkpoint."""
        self.bad_steps = BadSteps(settings.precision == "fp16")
        self.plan = MemoryPlan(settings.batch_size, settings.checkpointing == "on")
        self._run_folder = run
        self._validated: tuple[int, float] | None = None
        """The newest validation: its step and loss."""
        self._saved_step: int | None = None
        self._is_updating = False
        self._metrics_failed = False
        self._clock = StepClock()

    @property
    def run_folder(self) -> RunFolder:
        """The run's folder, which the first process alone has."""
        assert self._run_folder is not None
        return self._run_folder

    def finish(self) -> None:
        """Train to the last step, and write the result into the run's folder.

        Raises: what `run` raises; RunError before the first step if the disk has no room for the run.
        """
        with together(self.ranks):
            if self.is_first:
                missing = max(0, self._bytes_on_disk - self.run_folder.num_bytes)
                check_free_space(self.run_folder.path, missing, "its checkpoints and its result")
        result = self.run()
        if self.is_first:
            training = self.run_folder.job.provenance(self.run_folder.path.name)
            self.run_folder.write_final(result.tensors, {**self.trainee.metadata, "training": training})

    @property
    def _bytes_on_disk(self) -> int:
        """A run's at most: weights, two moments and perhaps an average, in four checkpoints, and the result."""
        num_weights = sum(weight.numel() for weight in self.parameters.values())
        return num_weights * (4 * (4 if self.settings.ema else 3) * 4 + 4)

    def run(self) -> TrainingResult:
        """Train to the last step. Stopped at any point it leaves a checkpoint from which the next call goes on.

        Raises: RunError if gradients stay infinite or the disk fails twice; whatever `check_cancelled` raises.
        """
        self._restore()
        try:
            if self.step < self.settings.steps:
                self._choose_plan()
            self._do_what_is_due(self._done_at(self.step))
            while self.step < self.settings.steps:
                self._advance()
            self._check_learned()
        except BaseException as error:
            self._save_before_leaving()
            if self.step < self.settings.steps:
                self.shared_gradient.leave(error)
            raise
        if not self.is_first:
            return TrainingResult({}, [])
        if self._saved_step != self.step:
            self._save()
        return TrainingResult(self.published(), self._losses())

    def published(self) -> dict[str, Tensor]:
        """The weights as they are now in the published layout: the moving average where one is kept."""
        weights = self.average.weights if self.average else self.parameters
        return self.trainee.publish({name: weight.detach().float().cpu() for name, weight in weights.items()})

    def _advance(self) -> None:
        """One step, and whatever is due after it."""
        started = time.monotonic()
        self.observer.check_cancelled()
        rate = learning_rate_at(self.step, self.settings)
        loss, norm = self._update(self.data.draws(self.step), rate)
        self._report(loss, rate, norm, time.monotonic() - started)
        self._do_what_is_due()

    def _do_what_is_due(self, done: Collection[str] = ()) -> None:
        """Measure, sample and save, where it is time for that and not done already before a run was stopped."""
        if self._is_due(self.settings.validate_every) and VALIDATION not in done:
            self._validate()
        if self.step and self._is_due(self.settings.sample_every) and SAMPLE not in done:
            self._sample()
        if self.step and self._is_due(self.settings.save_every) and self._saved_step != self.step:
            self._save()

    def _done_at(self, step: int) -> set[str]:
        """What was done after a step, by the run's own metrics."""
        if not self.is_first:
            return set()
        return {line["kind"] for line in self.run_folder.metrics.read() if line["step"] == step}

    def _check_learned(self) -> None:
        """Raises: RunError if not one step of the run could be taken."""
        if self.settings.steps and not self.good_step:
            raise RunError(
                f"no step of this run had a finite gradient, so that nothing was learned in {self.step} steps. Set "
                "precision to bf16 or fp32, or lower the learning rate."
            )

    def _update(self, draws: Sequence[Draw], rate: float) -> tuple[float, float]:
        """Loss and gradient norm of a step; a step whose gradient is not finite leaves the weights alone."""
        loss = self.shared_gradient.sum_(self._gradient(self.ranks.share(draws), len(draws)))
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.gradient_clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit))
        is_good = self.bad_steps.note(self.step, loss, norm, draws, self.data.cached, self.scaler.get_scale())
        self._is_updating = True  # from here to the end of the step the weights are between two steps
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if is_good:
            self.scaler.step(self.optimizer)
        if self.scaler.is_enabled():
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average and is_good:
            self.average.update(self.parameters, self.step)
        self.step += 1
        self.good_step = self.step if is_good else self.good_step
        self._is_updating = False
        return loss, norm

    def _gradient(self, draws: Sequence[Draw], num_clips: int) -> float:
        """As `_backward`. Where memory got short since, in smaller bites."""
        with suppress(torch.OutOfMemoryError):
            return self._backward(draws, num_clips)
        # Out here the error is gone, and with it the activations that its frames held.
        self._choose_plan()
        return self._backward(draws, num_clips)

    def _backward(self, draws: Sequence[Draw], num_clips: int | None = None) -> float:
        """What some clips add to the mean loss over a step of `num_clips`, its gradient left in the weights."""
        num_clips = num_clips or len(draws)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for first in range(0, len(draws), self.plan.micro_batch):
            self.observer.check_cancelled()
            part = draws[first : first + self.plan.micro_batch]
            losses = self.objective.losses(self.denoiser, self.data.batch(part, self.denoiser))
            loss = losses.sum() / num_clips
            torch.autograd.backward(self.scaler.scale(loss))
            total += float(loss.detach())
        return total

    def _choose_plan(self) -> None:
        """Estimate, then probe one forward and backward pass at full size: settles how a step is carried out."""
        draws = self.ranks.share(self.data.draws(self.step))
        if not draws:
            return
        if self.settings.checkpointing == "auto" and not self.plan.checkpointing:
            self.plan = replace(self.plan, checkpointing=not self._can_keep(draws))

        def attempt(plan: MemoryPlan) -> None:
            self.plan, self.denoiser.checkpointing = plan, plan.checkpointing
            _moments = None if self.optimizer.state else self._room_for_moments()
            try:
                self._backward(draws[: plan.micro_batch])
            finally:
                self.optimizer.zero_grad(set_to_none=True)

        may_checkpoint = self.settings.checkpointing == "auto"
        self.plan = fit_to_memory(self.plan, may_checkpoint, attempt, self.observer.say)

    def _can_keep(self, draws: Sequence[Draw]) -> bool:
        """Whether memory is there to keep all activations for the backward pass, told from those of one clip."""
        self.denoiser.checkpointing = False
        batch = self.data.batch(draws[:1], self.denoiser)
        try:
            kept = kept_bytes(lambda: self.objective.losses(self.denoiser, batch))
        except torch.OutOfMemoryError:
            return False
        num_weights = sum(weight.numel() for weight in self.parameters.values())
        needed = needed_bytes(num_weights, bool(self.optimizer.state), kept, self.plan.micro_batch)
        free = self.denoiser.free_memory()
        say = self.observer.say if needed > free else log.info
        say(f"training needs about {needed / GIBIBYTE:.1f} GiB if activations are kept, {free / GIBIBYTE:.1f} are free")
        return needed <= free

    def _room_for_moments(self) -> list[Tensor]:
        """What the optimizer will keep from its first step on, so that the probe does without it too."""
        return [torch.empty_like(weight) for weight in self.parameters.values() for _ in range(2)]

    @contextmanager
    def _averaged(self) -> Generator[None]:
        """The moving average in the place of the weights."""
        if self.average is None:
            yield
            return
        kept = {name: weight.detach().clone() for name, weight in self.parameters.items()}
        self._put(self.average.weights)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: Any) -> None:
        for name, weight in self.parameters.items():
            weight.copy_(weights[name])

    def _validate(self) -> None:
        if not self.settings.validate_every or not self.is_first:
            return
        try:
            with self._averaged():
                report = self.validation.measure(self.denoiser, self.step)
        except torch.OutOfMemoryError:
            self.observer.say(f"no validation at step {self.step}: memory is short; training goes on")
            return
        self._validated = (self.step, report.loss)
        self._note(VALIDATION, loss=report.loss, by_timestep=report.by_timestep)
        self.observer.on_validation(report)

    def _sample(self) -> None:
        """A clip on the way. It takes memory for a moment, and where that is short it is left out."""
        if not self.is_first:
            return
        try:
            with self._averaged():
                latents = self.validation.sample(self.denoiser)
            self.observer.on_sample(latents, self.step, self.run_folder.samples)
        except torch.OutOfMemoryError:
            self.observer.say(f"no sample clip at step {self.step}: memory is short; training goes on")
            return
        self._note(SAMPLE)

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    def _report(self, loss: float, rate: float, norm: float, seconds: float) -> None:
        left = self._clock.seconds_left(seconds, self.settings.steps - self.step)
        self._note("step", loss=loss, learning_rate=rate, gradient_norm=norm, seconds=seconds)
        self.observer.on_step(StepReport(self.step, self.settings.steps, loss, rate, norm, left))

    def _note(self, kind: str, **values: Any) -> None:
        """A line of metrics; a disk that does not take it costs the line, and is said once."""
        if not self.is_first:
            return
        try:
            self.run_folder.metrics.append(kind, self.step, **values)
        except RunError as error:
            if not self._metrics_failed:
                self.observer.say(f"no metrics from step {self.step} on, training goes on: {error}")
            self._metrics_failed = True

    def _losses(self) -> list[float]:
        return [line["loss"] for line in self.run_folder.metrics.read() if line["kind"] == "step"]

    def checkpoint(self) -> Checkpoint:
        """Everything that the next step depends on."""
        tensors = {
            "weights": {name: weight.detach() for name, weight in self.parameters.items()},
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
        }
        if self.average:
            tensors["ema"] = self.average.weights
        state = {"best": self.best, "scaler": self.scaler.state_dict(), "bad_steps": self.bad_steps.total}
        return Checkpoint(self.step, tensors, state)

    def _restore(self) -> None:
        checkpoint = self._load()
        if checkpoint is None:
            return
        self._put(checkpoint.tensors["weights"])
        restore_optimizer(self.optimizer, self.parameters, checkpoint.tensors["optimizer"])
        if self.average:
            self.average.weights = {
                name: weight.to(self.denoiser.device)
                for name, weight in checkpoint.tensors.get("ema", checkpoint.tensors["weights"]).items()
            }
        if self.scaler.is_enabled() and checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.best = checkpoint.state["best"]
        self.bad_steps.total = checkpoint.state["bad_steps"]
        self.step = self.good_step = self._saved_step = checkpoint.step

    def _load(self) -> Checkpoint | None:
        """Where the run stands: what the first process finds, and the others read from the same files."""
        checkpoint, place = None, ""
        with together(self.ranks):
            checkpoint = self.run_folder.load_checkpoint() if self.is_first else None
            place = str(self.run_folder.checkpoint_path(checkpoint.step)) if checkpoint else ""
        place = self.ranks.gather(place)[0]
        with together(self.ranks):
            if place and not self.is_first:
                checkpoint = read_checkpoint(Path(place))
            if checkpoint:
                self._check_fits(checkpoint, place)
        return checkpoint

    def _check_fits(self, checkpoint: Checkpoint, place: str) -> None:
        found = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.get("weights", {}).items()}
        expected = {name: tuple(weight.shape) for name, weight in self.parameters.items()}
        if found != expected:
            odd = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
            raise RunError(
                f"the checkpoint {place} is not one of this {self.trainee.stage}: {len(odd)} weights differ in name or "
                f"shape ({some(odd[:2])}). Move it away, and the run goes on from the one before it."
            )

    def _save(self) -> None:
        """Write a checkpoint. A disk that fails once costs that checkpoint; at the second time the run stops."""
        if not self.is_first or self.bad_steps.in_a_row:
            return  # the next good step is saved instead: a checkpoint is of a step that was taken
        check_finite(self.parameters, self.trainee.stage)
        step, found = self._validated or (None, math.nan)
        is_best = step == self.step and found < (math.inf if self.best is None else self.best)
        self.best = found if is_best else self.best
        try:
            self.run_folder.save_checkpoint(self.checkpoint(), is_best)
        except RunError as error:
            if self.bad_steps.disk_failed:
                raise
            self.bad_steps.disk_failed = True
            self.observer.say(f"no checkpoint at step {self.step}, training goes on: {error}")
            return
        self._saved_step = self.step

    def _save_before_leaving(self) -> None:
        """Keep what was learned, whatever ended the run; nothing here may hide why it ended."""
        if not self.is_first or self._is_updating:
            return
        self.step = self.good_step if self.bad_steps.in_a_row else self.step
        if self._saved_step == self.step or self.step == 0:
            return
        try:
            check_finite(self.parameters, self.trainee.stage)
            self.run_folder.save_checkpoint(self.checkpoint())
            self._saved_step = self.step
        except Exception as error:  # noqa: BLE001 - it must not hide what ended the run
            log.warning("the run could not be saved at step %d: %s", self.step, error)
        else:
            self.observer.say(f"stopped after step {self.step}; queue it again to go on ({self.run_folder.path})")
