"""Ray Train: the workers of a training, one group of processes that talk by torch.distributed.

What is learned is published by the training itself. So Ray Train holds no checkpoints: a group that lost a worker is
started again, and goes on from what was published last, and so does a driver that is started again.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.core.nouns import Fit, Place, Training
from penstock.errors import RunError

__all__ = ["fitted"]

_RESTARTS = 5
_LISTENING_SECONDS = 0.5

Heard = Callable[[Mapping[str, float]], None]


def fitted(fit: Fit, heard: Heard) -> None:
    """Carry *fit* out by as many workers as its place allows.

    Raises:
        RunError: the training failed, or workers were lost again and again; what was published is kept.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    fit.training.begin()
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder, _listening(heard) as ear:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"training": fit.training, "ear": ear},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=fit.place.replicas[1],
                use_gpu=fit.place.gpus > 0,
                resources_per_worker=_share(fit.place),
            ),
            run_config=RunConfig(
                name=fit.name, storage_path=folder, failure_config=FailureConfig(max_failures=_RESTARTS)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            words = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise RunError(
                f"{fit.name}: the training ended: {words[0] if words else error!r} ... {words[-1] if words else ''}"
                "\n  what was published last is kept; run again to go on from there"
            ) from error


def _share(place: Place) -> dict[str, float]:
    asked = {"CPU": place.cpus, "GPU": place.gpus, "memory": float(place.memory_bytes)}
    return {name: amount for name, amount in asked.items() if amount}


def _worker(config: dict[str, Any]) -> None:
    """In each worker."""
    training: Training = config["training"]
    training.train(_Group.joined(config["ear"]))


@dataclass(frozen=True)
class _Group:
    """The team of this worker; see `penstock.core.nouns.Team`."""

    rank: int
    size: int
    ear: Any

    @classmethod
    def joined(cls, ear: Any) -> _Group:
        from ray.train import get_context

        context = get_context()
        return cls(context.get_world_rank(), context.get_world_size(), ear)

    def exchange(self, sent: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        counts = self._swapped(np.array([len(part) for part in sent]), [1] * self.size, [1] * self.size)
        came = self._swapped(np.concatenate(sent), [len(part) for part in sent], counts.tolist())
        return np.split(came, np.cumsum(counts)[:-1])

    def _swapped(self, sent: npt.NDArray[Any], give: list[int], take: list[int]) -> npt.NDArray[Any]:
        import torch
        from torch.distributed import all_to_all_single

        came = torch.empty((sum(take), *sent.shape[1:]), dtype=torch.from_numpy(sent[:0]).dtype)
        all_to_all_single(came, torch.from_numpy(np.ascontiguousarray(sent)), take, give)
        return np.asarray(came.numpy())

    def gather(self, value: Any) -> list[Any]:
        from torch.distributed import all_gather_object

        found: list[Any] = [None] * self.size
        all_gather_object(found, value)
        return found

    def report(self, metrics: Mapping[str, float]) -> None:
        import ray.train

        ray.train.report(dict(metrics))
        if self.rank == 0:
            self.ear.hear.remote(dict(metrics))


# --- what the driver hears -------------------------------------------------------------------------------


class _Ear:
    """Keeps what workers say until the driver asks."""

    def __init__(self) -> None:
        self.said: list[dict[str, float]] = []

    def hear(self, metrics: dict[str, float]) -> None:
        self.said.append(metrics)

    def told(self) -> list[dict[str, float]]:
        said, self.said = self.said, []
        return said


@contextmanager
def _listening(heard: Heard) -> Iterator[Any]:
    """An actor that workers speak to; what it hears is told to *heard* in this process."""
    import ray

    ear: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ear).remote()
    over = threading.Event()

    def tell() -> None:
        with suppress(ray.exceptions.RayError):  # what was said is lost with Ray; how the training ends is told by it
            for metrics in ray.get(ear.told.remote()):
                heard(metrics)

    def listen() -> None:
        while not over.wait(_LISTENING_SECONDS):
            tell()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield ear
    finally:
        over.set()
        thread.join()
        tell()
        ray.kill(ear)
