"""Gradient descent: the steps of a `GradientTrainer`, and all that is needed to go on with them.

A run can be killed at any moment and resumed with the same result. The order of pictures is drawn
from seed and epoch, every other random number from seed, step and picture, and learning rates are
functions of the step, so a checkpoint holds parameters, optimisers and the step, and no state of
any random generator.
"""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ad.core.callbacks import Callbacks, LoopState
from ad.core.data.learning import LearningBatch, LearningData, stream
from ad.core.devices import in_precision
from ad.core.errors import Interrupted, LearningError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.distributed import World
from ad.core.learning.fused_adam import fuse
from ad.core.learning.signals import noted_signals
from ad.core.saved.loading import load_tensors
from ad.core.trainer import GradientTrainer, Optimization
from ad.runtime.progress import Advance

_STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Signals on which a run saves what it has learnt before it ends."""


@final
class Descent:
    """One run of gradient descent."""

    def __init__(
        self,
        trainer: GradientTrainer,
        data: LearningData,
        held_out: LearningData | None,
        patience: int | None,
        checkpoints: Checkpoints | None,
        callbacks: Callbacks,
        world: World,
        compiled: bool,
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.held_out = held_out
        self.patience = patience
        self.checkpoints = checkpoints
        self.callbacks = callbacks
        self.world = world
        self.losses = torch.compile(trainer.losses) if compiled else trainer.losses
        self.total_steps = trainer.num_steps(data.epoch_length)
        self.steps_per_epoch = math.ceil(data.epoch_length / trainer.setup.batch_size)
        self.step = 0
        self.sums: dict[str, float] = {}  # of the losses of this epoch
        self.best: tuple[float, int, dict[str, Tensor]] | None = None  # value, epoch, state
        self.stopped = False

    def run(self) -> None:
        """Take all steps that are left, and keep the best epoch; raises what `fit` tells of."""
        trainer, progress = self.trainer, self.trainer.setup.progress
        found = self.checkpoints.latest() if self.checkpoints else None
        trainer.begin(self.data)
        self.data.fill(progress)
        if found is None:
            trainer.prepare(self.data)
        else:
            self._load(_below("now.", found[0]), "the checkpoint")
        optimizations = tuple(trainer.optimizers(self.total_steps))
        for optimization in optimizations:
            fuse(optimization.optimizer)
            for group in optimization.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        if found is not None:
            self._restore(optimizations, *found)
        self.world.follow(self._state().values())
        self.callbacks.tell("on_fit_start", self._at())
        with (
            noted_signals(_STOPPING if self.checkpoints is not None else ()) as caught,
            progress.step(
                "learning", total=self.total_steps, unit="steps", done=self.step
            ) as advance,
        ):
            while self.step < self.total_steps and not self.stopped:
                self._run_epoch(optimizations, advance, caught)
        self._set_training(False)
        if self.best is not None:
            self._load(self.best[2], "the best epoch")
        trainer.conclude(self.data, self.held_out)
        self.callbacks.tell("on_fit_end", self._at())

    def _run_epoch(
        self, optimizations: Sequence[Optimization], advance: Advance, caught: list[int]
    ) -> None:
        """Take the steps of an epoch that are left."""
        self._set_training(True)
        self.callbacks.tell("on_epoch_start", self._at())
        for batch, weight in self._rest_of_epoch():
            state = self._at()
            losses = self._learn(batch, weight, optimizations)
            self.step += 1
            advance(1, f"epoch {batch.epoch + 1}  {_terms(losses)}")
            self.callbacks.tell("on_batch_end", replace(state, step=self.step, losses=losses))
            ended = self.step % self.steps_per_epoch == 0 or self.step == self.total_steps
            if ended:
                self._end_epoch(batch.epoch)
            stop = self.world.any(bool(caught))
            if self.checkpoints and self.world.main and (stop or self.checkpoints.due):
                self._save(optimizations)
            if stop:
                self.world.wait()  # for what the first one saves
                raise self._interrupted(caught[0] if caught else signal.SIGTERM)
            if ended:
                break

    def _at(self) -> LoopState:
        """How far learning is, before a step."""
        epoch = self.step // self.steps_per_epoch
        return LoopState(epoch=epoch, step=self.step, total_steps=self.total_steps)

    def _rest_of_epoch(self) -> Iterator[tuple[LearningBatch, float]]:
        """This process's share of the batches, each with its weight."""
        setup = self.trainer.setup
        epoch, done = divmod(self.step, self.steps_per_epoch)
        order = self.data.order(epoch)
        shares = [
            self.world.share(order[start : start + setup.batch_size])
            for start in range(done * setup.batch_size, len(order), setup.batch_size)
        ]
        rows = [row for share, _ in shares for row in share]  # only the last may be smaller
        batches = self.data.batches(setup.batch_size // self.world.size, order=rows, epoch=epoch)
        return zip(batches, [weight for _, weight in shares], strict=True)

    def _learn(
        self, batch: LearningBatch, weight: float, optimizations: Sequence[Optimization]
    ) -> dict[str, float]:
        """Take all updates of a batch; the mean of each loss over those that name it."""
        world = self.world
        own = (world.rank,) if world.rank else ()  # what is drawn differs between processes
        torch.manual_seed(stream(self.trainer.setup.seed, 1, self.step, *own))
        found: dict[str, list[float]] = {}
        for update in range(self.trainer.num_updates()):
            part = replace(batch, step=self.step, update=update)
            for name, value in self._update(part, weight, optimizations).items():
                found.setdefault(name, []).append(value)
        world.average_buffers(self.trainer.modules().values(), weight)
        means = {name: sum(values) / len(values) for name, values in found.items()}
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return means

    def _update(
        self, batch: LearningBatch, weight: float, optimizations: Sequence[Optimization]
    ) -> dict[str, float]:
        setup, world = self.trainer.setup, self.world
        active = [o for o in optimizations if o.steps is None or self.step in o.steps]
        with in_precision(setup.precision, setup.device):
            losses = self.losses(batch)
        own_values = torch.stack(list(losses.values())).tolist()
        values = world.mean(dict(zip(losses, own_values, strict=True)), weight)
        if not all(map(math.isfinite, values.values())):
            indices = [index for rows in world.gather(batch.indices) for index in rows]
            raise LearningError(world.tell(self._explain(values, indices)))
        for optimization in active:
            optimization.optimizer.zero_grad(set_to_none=True)
        for number, optimization in enumerate(active, start=1):
            wanted = losses if optimization.terms is None else optimization.terms
            total = torch.stack([losses[name] for name in wanted]).sum()
            # Each optimiser's gradients are of its own parameters, whatever else the terms reach.
            torch.autograd.backward(
                total, inputs=_parameters(optimization), retain_graph=number < len(active)
            )
        for optimization in active:
            world.average_gradients(_parameters(optimization), weight)
            if optimization.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(_parameters(optimization), optimization.clip_norm)
            for group in optimization.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * optimization.schedule(self.step)
            optimization.optimizer.step()
        return values

    def _explain(self, values: Mapping[str, float], indices: Sequence[int]) -> str:
        sources = [self.data.source(index) for index in indices]
        batch = [
            source if isinstance(source, Path) else f"number {index}"
            for source, index in zip(sources, indices, strict=True)
        ]
        saved = self.checkpoints is not None and self.checkpoints.saved
        kept = "The last checkpoint is still there. " if saved else ""
        return (
            f"The loss is not finite at step {self.step + 1} of {self.total_steps}: "
            f"{_terms(values)}. The batch was {', '.join(f'`{name}`' for name in batch)}. "
            f"{kept}Look at these pictures, and start a new run with `--precision fp32` or a "
            "smaller learning rate: this one, resumed as it is, would get here again."
        )

    def _interrupted(self, number: int) -> Interrupted:
        assert self.checkpoints is not None
        return Interrupted(
            f"Stopped by {signal.Signals(number).name} after step {self.step} of "
            f"{self.total_steps}; what was learnt is saved.\nhint: the same command with "
            f"`--resume {shlex.quote(str(self.checkpoints.folder.parent))}` goes on from there",
            status=128 + number,
        )

    def _end_epoch(self, epoch: int) -> None:
        taken = (self.step - 1) % self.steps_per_epoch + 1
        value = self._watch(epoch)
        state = LoopState(
            epoch=epoch,
            step=self.step,
            total_steps=self.total_steps,
            losses={name: total / taken for name, total in self.sums.items()},
            monitor=value,
        )
        self.sums = {}
        stops = self.callbacks.tell("on_epoch_end", state)
        waited = epoch - self.best[1] if self.best else 0
        patient = self.patience is None or waited < self.patience
        self.stopped = self.world.tell("stop" in stops or not patient)

    def _watch(self, epoch: int) -> float | None:
        """The trainer's monitor over the held-out pictures; keeps the state if it is the best."""
        if self.held_out is None:
            return None
        self._set_training(False)
        # In the first process alone: all must judge alike.
        value = self.world.tell(self._monitor(self.held_out) if self.world.main else None)
        self._set_training(True)
        if value is None:
            return None
        if self.best is None or value < self.best[0]:
            state = {name: tensor.detach().clone() for name, tensor in self._state().items()}
            self.best = (value, epoch, state)
        return value

    def _monitor(self, held_out: LearningData) -> float | None:
        parts = []
        held_out.fill(self.trainer.setup.progress)
        with torch.no_grad():
            for batch in held_out.batches(self.trainer.setup.batch_size):
                part = self.trainer.monitor_kept(batch)
                if part is None:
                    return None
                parts.append(part)
        return torch.cat(parts).double().mean().item()

    def _set_training(self, mode: bool) -> None:
        for module in self.trainer.modules().values():
            module.train(mode)

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{owner}.{name}": tensor
            for owner, module in self.trainer.modules().items()
            for name, tensor in module.state_dict().items()
        }

    def _load(self, state: Mapping[str, Tensor], what: str) -> None:
        for owner, module in self.trainer.modules().items():
            load_tensors(module, _below(f"{owner}.", state), what)

    def _save(self, optimizations: Sequence[Optimization]) -> None:
        assert self.checkpoints is not None
        tensors = {f"now.{name}": tensor for name, tensor in self._state().items()}
        optimizers = []
        for number, optimization in enumerate(optimizations):
            state = optimization.optimizer.state_dict()
            plain: dict[str, dict[str, Any]] = {}
            for index, entries in state["state"].items():
                plain[str(index)] = {}
                for key, value in entries.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer.{number}.{index}.{key}"] = value
                    else:
                        plain[str(index)][key] = value
            optimizers.append({"groups": state["param_groups"], "state": plain})
        best = None
        if self.best is not None:
            best = self.best[:2]
            tensors |= {f"best.{name}": tensor for name, tensor in self.best[2].items()}
        self.checkpoints.save(
            self.step,
            tensors,
            {
                "optimizers": optimizers,
                "sums": self.sums,
                "best": best,
                "stopped": self.stopped,
                "callbacks": self.callbacks.state(),
            },
        )

    def _restore(
        self,
        optimizations: Sequence[Optimization],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        for number, (optimization, saved) in enumerate(
            zip(optimizations, state["optimizers"], strict=True)
        ):
            entries = {int(index): dict(values) for index, values in saved["state"].items()}
            for name, tensor in _below(f"optimizer.{number}.", tensors).items():
                index, _, key = name.partition(".")
                entries[int(index)][key] = tensor
            optimization.optimizer.load_state_dict(
                {"state": entries, "param_groups": saved["groups"]}
            )
        self.step, self.sums, self.stopped = state["step"], dict(state["sums"]), state["stopped"]
        self.callbacks.restore(state["callbacks"])
        if state["best"] is not None:
            value, epoch = state["best"]
            device = self.trainer.setup.device
            best = {name: t.to(device) for name, t in _below("best.", tensors).items()}
            self.best = (value, epoch, best)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _parameters(optimization: Optimization) -> list[Tensor]:
    return [p for group in optimization.optimizer.param_groups for p in group["params"]]


def _terms(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
