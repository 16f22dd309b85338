"""An encoder learns, or learns on, by guessing tokens that were hidden from it.

Every worker has the whole network and learns from its own rows; their gradients are added up. What is published by the
rules of datasets, in the format ``model``::

    root/config.json ...       a folder in the Hugging Face layout, which the `encode` step loads
    root/manifests, parts      its versions, each with its weights; the first is made when the training is done
    root/training              meanwhile: network and optimiser as they were, and where in the data that was
    root/history.json          what the training has said

A training that is killed goes on from the newest version in ``training``, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.core.batch import tensor_type
from penstock.core.dataset import Manifest, existing, newest, publish_part
from penstock.core.nouns import Part, Team
from penstock.core.reading import read_rows
from penstock.core.storage import Uri, join, local_copy, publish
from penstock.errors import RunError, SchemaError, UnitError
from penstock.models import masked
from penstock.models.catalogue import Model
from penstock.models.device import device_of
from penstock.models.masked import Fresh, Ints
from penstock.models.transformer import batches, grid
from penstock.trainings.history import History
from penstock.trainings.versions import prune, publish_version

__all__ = ["Masked"]

_HELD_OUT = 256
"""So many rows of the block that is not learned from are asked about."""
_TOLD_SECONDS = 30.0
_WARMUP = 0.06
"""In this share of the training the rate rises from 0."""
_DECAY = 0.01
_LONGEST_GRADIENT = 1.0
_KEPT = 2
_MEANWHILE = "training"


@dataclass(frozen=True)
class Masked:
    """Masked language modelling (Devlin et al. 2018, https://arxiv.org/abs/1810.04805) over a column of token ids.

    15 % of the tokens are to be guessed, others each time; of these 80 % are hidden behind the mask token, 10 % are
    replaced and 10 % stay. AdamW; the rate rises for a short while and then falls to 0 in a straight line.

    Attributes:
        source: the dataset of the token ids, as the `tokens` step makes them.
        uri: where the trained encoder is published, a folder or ``s3://``; ``encode`` takes a folder as its model.
        model: what is trained on: a name of the catalogue, or a folder in the Hugging Face layout; or a new network,
            ``{ residues = "dna", width = 128, layers = 4 }``.
        column: of the ids; a row longer than the model takes is cut.
        rate: at its highest.
        epochs: how often all rows are gone through.
        batch_tokens: so many tokens, padding counted, in each worker go into one step.
        mask_share: of the tokens that are to be guessed.
        seed: of new weights and of all draws.
        block_rows: how many rows are read at once; blocks are gone through in another order each epoch.
        publish_minutes: a version is published at least so often, from which a killed training goes on.
        device: ``auto`` takes a GPU where there is one.
    """

    source: Uri
    uri: Uri
    model: Fresh | Model
    column: str = "input_ids"
    rate: float = 5e-5
    epochs: int = 3
    batch_tokens: int = 4096
    mask_share: float = 0.15
    seed: int = 0
    block_rows: int = 1024
    publish_minutes: float = 10.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("publish_minutes", "device")
    NEEDS = ("torch", "transformers", "safetensors", "tokenizers")

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_tokens, self.block_rows) < 1:
            raise ValueError("epochs, batch_tokens and block_rows must be 1 or more")
        if not 0 < self.mask_share < 1 or not 0 < self.rate <= 1:
            raise ValueError(f"mask_share and rate must lie between 0 and 1; found {self.mask_share} and {self.rate}")
        if self.model == self.uri:
            raise ValueError(f"model and uri are both {self.uri}; publish what is learned at a place of its own")

    @property
    def reads(self) -> str:
        """The dataset that is learned from."""
        return self.source

    def schema(self, given: pa.Schema) -> pa.Schema:
        """What `encode` makes with the encoder. Raises `SchemaError` where there are no lists of token ids."""
        ids = (pa.list_(pa.int32()), pa.list_(pa.int64()))
        if self.column not in given.names or given.field(self.column).type not in ids:
            found = ", ".join(f"{field.name}: {field.type}" for field in given)
            raise SchemaError(f"masked needs a column '{self.column}' of lists of token ids; found: {found}")
        return pa.schema([("embedding", tensor_type("float32", masked.shape_of(self.model).width))])

    def fingerprint(self) -> str:
        """The identity of this training on this data, from these weights."""
        plain = {name: value for name, value in asdict(self).items() if name not in self.ASIDE}
        text = json.dumps([plain, existing(self.source).sha256, dict(masked.hashes_of(self.model))], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def done(self) -> bool:
        """Whether the newest version is the end of this training."""
        return self._at(self.uri) is not None

    def reached(self) -> Manifest | None:
        """How far this very training has come; None before it was published for the first time."""
        return self._at(join(self.uri, _MEANWHILE))

    def _at(self, uri: str) -> Manifest | None:
        found = newest(uri)
        ours = found is not None and found.provenance.get("recipe", {}).get("training") == self.fingerprint()
        return found if ours else None

    def begin(self) -> None:
        """Look whether the model can be trained. Raises `WeightsError`."""
        masked.words_of(self.model)

    def train(self, team: Team) -> None:
        """Go on to the end; collective.

        Raises:
            UnitError: an id is not in the model's vocabulary.
            PlanError: ``cuda`` was asked for, and torch sees none.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            _Learner(self, team).run()


class _Learner:
    """One worker, from the newest version on."""

    def __init__(self, training: Masked, team: Team) -> None:
        self.training, self.team = training, team
        self.words, self.shape = masked.words_of(training.model), masked.shape_of(training.model)
        self.manifest = existing(training.source)
        self.block_rows = max(1, min(training.block_rows, self.manifest.rows // 8))
        self.blocks = -(-self.manifest.rows // self.block_rows)
        self.held_out = self._random(0).integers(self.blocks) if self.blocks > 1 else -1
        self.in_epoch = max(self.blocks - 1, 1)
        self.device = device_of(training.device, "training")
        self.network = masked.network_of(training.model, training.seed).to(self.device)
        self.optimizer = _optimizer(self.network, training.rate)
        self.loss, self.guesses = 0.0, 0
        self.epoch, self.block = self._restored()
        self.learner = _together(self.network, team)
        self.history = History(training.uri, self.epoch + self.block / self.in_epoch)
        self.told = self.published = time.monotonic()

    def run(self) -> None:
        """Each round every worker takes a block."""
        while self.epoch < self.training.epochs:
            self._round()
            self.block += self.team.size
            if self.block >= self.in_epoch:
                self.epoch, self.block = self.epoch + 1, 0
            self._tell()

    def _random(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.training.seed, *what])

    # --- what is learned from ----------------------------------------------------------------------------

    def _rows(self, block: int) -> tuple[Ints, Ints]:
        """All ids of a block, and where each row begins and the last one ends; rows that are too long are cut."""
        start, column = block * self.block_rows, self.training.column
        table = read_rows(self.manifest, start, min(start + self.block_rows, self.manifest.rows), [column])
        lists = table[column].combine_chunks()
        ids = np.asarray(lists.flatten().cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.shape.vocabulary:
            raise UnitError(
                f"{self.manifest.uri}: '{column}' has ids outside 0 to {self.shape.vocabulary - 1}, which the model "
                "does not know; make the tokens with its own tokenizer"
            )
        lengths = lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)
        if self.shape.longest:
            within = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            ids, lengths = ids[within < self.shape.longest], np.minimum(lengths, self.shape.longest)
        lengths = lengths[lengths > 0]
        return ids, np.concatenate([[0], np.cumsum(lengths)])

    def _batches(self, block: int, rows: int | None = None) -> list[Ints]:
        """The ids of rows of about equal length, ``"row token"``; -1 fills up."""
        ids, offsets = self._rows(block)
        lengths = np.diff(offsets)[:rows]
        places = [grid(offsets, at) for at in batches(lengths, self.training.batch_tokens)]
        return [np.where(place >= 0, ids[place], -1) for place in places]

    def _lessons(self) -> list[Ints]:
        """The batches of our block of this round, in any order."""
        left = np.delete(np.arange(self.blocks), self.held_out) if self.blocks > 1 else np.arange(1)
        order = self._random(1, self.epoch).permutation(left)
        at = self.block + self.team.rank
        if at >= len(order):
            return []
        found = self._batches(int(order[at]))
        return [found[place] for place in self._random(2, self.epoch, at).permutation(len(found))]

    # --- learning ----------------------------------------------------------------------------------------

    def _round(self) -> None:
        """Those that have fewer batches than others learn from an empty one, so that all take the same steps."""
        lessons = self._lessons()
        steps = max(self.team.gather(len(lessons)))
        for step in range(steps):
            ids = lessons[step] if step < len(lessons) else self.words.special[:1, None]
            self._step(ids, step, (step + 1) / steps)

    def _rate(self, share: float) -> float:
        """The rate when *share* of this round is over."""
        blocks = self.epoch * self.in_epoch + min(self.block + share * self.team.size, self.in_epoch)
        gone = blocks / (self.training.epochs * self.in_epoch)
        return self.training.rate * min(gone / _WARMUP, (1 - gone) / (1 - _WARMUP))

    def _step(self, ids: Ints, step: int, share: float) -> None:
        """One step by the gradient of the mean loss over what all workers guess."""
        import torch

        random = self._random(3, self.epoch, self.block, step, self.team.rank)
        torch.manual_seed(int(random.integers(1 << 62)))
        seen, wanted = masked.hidden(ids, self.words, self.training.mask_share, random)
        guesses = int((wanted != masked.IGNORED).sum())
        of_all = sum(self.team.gather(guesses))
        if not of_all:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(share)
        loss = _loss(self._guessed(self.learner.train(), seen), wanted)
        (loss * (self.team.size / of_all)).backward()  # the workers' gradients are averaged
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LONGEST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss, self.guesses = self.loss + loss.item(), self.guesses + guesses

    def _guessed(self, network: Any, ids: Ints) -> Any:
        import torch

        mask = torch.from_numpy((ids >= 0).astype(np.int64)).to(self.device)
        known = torch.from_numpy(np.where(ids >= 0, ids, self.shape.padding)).to(self.device)
        return network(input_ids=known, attention_mask=mask).logits

    # --- what is told ------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Metrics now and then, a version every few minutes and at the end; by rank 0's clock."""
        now = self.team.gather(time.monotonic())[0]
        last = self.epoch == self.training.epochs
        if now - self.told > _TOLD_SECONDS or not self.block:
            self._report()
            self.told = now
        if now - self.published > self.training.publish_minutes * 60 or last:
            told = self._sums()
            if self.team.rank == 0:
                self._finish() if last else self._publish(*told)
            self.team.gather(None)
            self.published = now

    def _sums(self) -> tuple[float, int]:
        """Loss and guesses of all workers since the last report."""
        found = self.team.gather((self.loss, self.guesses))
        return sum(loss for loss, _ in found), sum(guesses for _, guesses in found)

    def _report(self) -> None:
        (loss, guesses), asked = self._sums(), self.team.gather(self._asked())
        questions = max(sum(count for _, _, count in asked), 1)
        metrics = {
            "epoch": self.epoch + self.block / self.in_epoch,
            "loss": loss / max(guesses, 1),
            "held_out_loss": sum(loss for loss, _, _ in asked) / questions,
            "accuracy": sum(right for _, right, _ in asked) / questions,
            "rate": self._rate(0),
        }
        if self.team.rank == 0:
            self.history.add(metrics)
        self.loss, self.guesses = 0.0, 0
        self.team.report(metrics)

    def _asked(self) -> tuple[float, int, int]:
        """Loss, right guesses and guesses on our share of the rows that are held out; the same tokens each time."""
        import torch

        network, sums = self.network.eval(), (0.0, 0, 0)
        given = list(enumerate(self._batches(max(int(self.held_out), 0), _HELD_OUT)))
        with torch.inference_mode():
            for number, ids in given[self.team.rank :: self.team.size]:
                seen, wanted = masked.hidden(ids, self.words, self.training.mask_share, self._random(4, number))
                logits = self._guessed(network, seen)
                right = int((logits.argmax(-1).cpu().numpy() == wanted).sum())
                found = (_loss(logits, wanted).item(), right, int((wanted != masked.IGNORED).sum()))
                sums = (sums[0] + found[0], sums[1] + found[1], sums[2] + found[2])
        return sums

    # --- what is published -------------------------------------------------------------------------------

    def _restored(self) -> tuple[int, int]:
        """Where in the data the newest version is; network and optimiser become what they were there."""
        import torch

        found = self.training.reached()
        if found is None:
            return 0, 0
        with local_copy(join(found.uri, found.parts()["path"][0].as_py())) as file:
            state = torch.load(file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        notes = found.provenance["recipe"]
        if self.team.rank == 0:
            self.loss, self.guesses = notes["loss"], notes["guesses"]
        return notes["epoch"], notes["block"]

    def _publish(self, loss: float, guesses: int) -> None:
        """How far we are."""
        import torch

        uri = join(self.training.uri, _MEANWHILE)
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        part = publish_part(uri, ".pt", lambda path: torch.save(state, path), 0)
        self._commit(uri, part, {"loss": loss, "guesses": guesses})

    def _finish(self) -> None:
        """The folder for readers comes before the version that says that all is done."""
        self._commit(self.training.uri, _published(self.training, self.network), {})
        prune(join(self.training.uri, _MEANWHILE), 0)

    def _commit(self, uri: str, part: Part, told: Mapping[str, float]) -> None:
        notes = {"training": self.training.fingerprint(), "epoch": self.epoch, "block": self.block, **told}
        publish_version(uri, part, self.training.schema(self.manifest.schema), notes, _KEPT)


def _optimizer(network: Any, rate: float) -> Any:
    """AdamW; as in BERT's own training, weights decay and offsets and norms do not."""
    import torch

    learned = [weights for weights in network.parameters() if weights.requires_grad]
    groups = [
        {"params": [weights for weights in learned if weights.ndim > 1], "weight_decay": _DECAY},
        {"params": [weights for weights in learned if weights.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate)


def _together(network: Any, team: Team) -> Any:
    """The network whose gradients are averaged over the team."""
    if team.size == 1:
        return network
    import torch.distributed
    from torch.nn.parallel import DistributedDataParallel

    if not torch.distributed.is_initialized():
        raise RunError(f"a team of {team.size} needs torch.distributed to learn together; run it by the runner 'ray'")
    # Some networks have parts that guessing tokens does not use.
    return DistributedDataParallel(network, find_unused_parameters=True)


def _loss(logits: Any, wanted: Ints) -> Any:
    """The sum over all guesses, in nats."""
    import torch

    targets = torch.from_numpy(wanted).to(logits.device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=masked.IGNORED, reduction="sum"
    )


def _published(training: Masked, network: Any) -> Part:
    """Put the folder in the Hugging Face layout to its place, the weights last; they are the version's part too."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        folder = Path(name)
        masked.save(network, training.model, folder)
        weights = folder / "model.safetensors"
        for path in [*sorted(set(folder.iterdir()) - {weights}), weights]:
            with publish(training.uri, path.suffix) as (scratch, upload):
                scratch.write_bytes(path.read_bytes())
                upload(path.name)
        return publish_part(training.uri, ".safetensors", lambda path: _copy(weights, path), 0)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
