"""Ray Tune: trials side by side, and those that fall behind are stopped early.

Which trials there are is settled before (`penstock.trainings.search`); Ray decides which go on, by successive halving
(Li et al. 2020, https://arxiv.org/abs/1810.05934). How each went is kept beside what it has learned, so that a search
which is killed does not try again what has ended.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.core.spec import Tune
from penstock.errors import RunError
from penstock.trainings import history
from penstock.trainings.alone import Alone
from penstock.trainings.search import Ended, Trial, record

__all__ = ["searched"]

_GRACE = 1
_REDUCTION = 3
"""After 1, 3, 9 ... epochs the best third goes on."""

Told = Callable[[Ended], None]


def searched(trials: Sequence[Trial], tune: Tune, told: Told) -> list[Ended]:
    """Carry *trials* out, as many at once as there is room for; Ray is up.

    Args:
        trials: their data are there.
        tune: what is compared.
        told: is told of each trial that ends.

    Raises:
        RunError: no trial came to its first epoch.
    """
    if not trials:
        return []
    _quiet()
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    place, epochs = trials[0].fit.place, _epochs(trials)
    watch = _watch(trials, told)
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(_trainable(trials), {"cpu": place.cpus, "gpu": place.gpus}),
            param_space={"trial": ray.tune.grid_search(list(range(len(trials))))},
            tune_config=ray.tune.TuneConfig(
                metric=tune.metric,
                mode=tune.mode,
                # One more than all epochs: who has come to the end also publishes what it has learned.
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=epochs + 1, grace_period=_GRACE, reduction_factor=_REDUCTION
                ),
            ),
            run_config=ray.tune.RunConfig(name=tune.train, storage_path=folder, verbose=0, callbacks=[watch]),
        )
        tuner.fit()
    if all(each.state == "failed" for each in watch.ended):
        why = watch.ended[0].error if watch.ended else "Ray started none"
        raise RunError(f"every trial of '{tune.train}' failed; the first: {why}")
    return list(watch.ended)


def _epochs(trials: Sequence[Trial]) -> float:
    return max(float(getattr(trial.fit.training, "epochs", 100)) for trial in trials)


def _quiet() -> None:
    """Ray's own words stay in its log files; read before Tune is imported."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer one prints a table where verbose is 0, too
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _trainable(trials: Sequence[Trial]) -> Callable[[dict[str, Any]], None]:
    """What each worker does: one trial, by a team of one."""

    def learn(config: dict[str, Any]) -> None:
        import ray.tune

        training = trials[config["trial"]].fit.training
        if not training.done():
            training.begin()
            training.train(Alone(lambda metrics: ray.tune.report(dict(metrics))))

    return learn


def _watch(trials: Sequence[Trial], told: Told) -> Any:
    """Keeps how trials ended, in the driver."""
    import ray.tune

    class Watch(ray.tune.Callback):  # type: ignore[misc]
        """See Ray's Callback."""

        def __init__(self) -> None:
            self.ended: list[Ended] = []

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """It came to its end or was stopped."""
            self._tell(_ended(_of(trial), trial.last_result or {}))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """It raised something, or its worker died."""
            mine = _of(trial)
            self._tell(Ended(mine.number, mine.values, "failed", 0.0, [], _why(trial)))

        def _tell(self, ended: Ended) -> None:
            self.ended.append(ended)
            told(ended)

    def _of(trial: Any) -> Trial:
        number: int = trial.config["trial"]
        return trials[number]

    return Watch()


def _ended(trial: Trial, last: dict[str, Any]) -> Ended:
    """What it said up to its last word that Ray heard; one that was stopped may have gone on for a moment."""
    training = trial.fit.training
    lines = [line for line in history.read(training.uri) if line["epoch"] <= last.get("epoch", 0.0)]
    whole = bool(lines) and lines[-1]["epoch"] >= getattr(training, "epochs", float("inf"))
    seconds = round(float(last.get("time_total_s", 0.0)), 3)
    ended = Ended(trial.number, trial.values, "done" if whole else "stopped", seconds, lines)
    record(training.uri, ended)
    return ended


def _why(trial: Any) -> str:
    """The last line of what was raised, from the file that Ray has just written in the driver's own folder."""
    path = Path(trial.error_file) if trial.error_file else None
    words = path.read_text(errors="replace").split("\n") if path and path.is_file() else []
    told = [word.strip() for word in words if word.strip()]
    return told[-1] if told else "its worker died"
