"""Shards read from start to end by ``webdataset``, in batches of like length, resumable to the batch.

The order is planned from the index of the shards before anything is read: a function of (seed, epoch) and of
how many processes and workers read. So a stream that resumes opens only the shards it still needs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from aista import processes
from aista.audio.files import load_audio
from aista.data.manifest import Utterance
from aista.data.shards import Shard, read_index
from aista.errors import AudioError, ConfigError, TrainingError

logger = logging.getLogger(__name__)

Item = tuple[Utterance, np.ndarray]


class ShardStream(IterableDataset[list[Item]]):
    """Batches of (utterance, samples) from the shards that this process and worker have to read.

    The shards of an epoch are shuffled and dealt out to the workers of all processes. A worker reads its own
    in pools of ``pool_batches`` batches; a pool is sorted by length and cut into batches, which are shuffled.
    Where several read, each gives equally many batches; rows beyond them wait for another epoch (logged).

    Args:
        folder: Where ``shards.json`` lies.
        batch_size: Utterances per batch.
        seed: Seed of all orders.
        pool_batches: Batches per pool; encoded, a pool lies in memory.
        num_workers: Of the DataLoader that reads (:meth:`loader` makes one).
        max_corrupt_share: Share of the clips, per worker, that may be unreadable; each is logged and replaced
            by a readable one of its pool. 0 lets the first one raise.

    Raises:
        ConfigError: ``webdataset`` is not installed.
        ManifestError: There are no complete shards.
        TrainingError: There are fewer shards than readers.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        batch_size: int,
        *,
        seed: int = 0,
        pool_batches: int = 50,
        num_workers: int = 0,
        max_corrupt_share: float = 0.0,
    ) -> None:
        try:
            import webdataset  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigError("Streaming shards needs webdataset.", advice="pip install webdataset") from None
        self.shards = read_index(folder)
        self.batch_size, self.seed, self.pool_batches = batch_size, seed, pool_batches
        self.num_workers, self.max_corrupt_share = num_workers, max_corrupt_share
        self.epoch, self._start = 0, 0
        self._corrupt: set[str] = set()
        self._batches_of_a_worker()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def loader(self, collate: Callable[[list[Item]], Any]) -> DataLoader:
        """Return the DataLoader that this stream was made for."""
        return DataLoader(self, batch_size=None, num_workers=self.num_workers, collate_fn=collate)

    def __len__(self) -> int:
        """Return the number of batches of an epoch that this process sees."""
        return self._batches_of_a_worker() * max(1, self.num_workers)

    def state_dict(self, batches_seen: int) -> dict[str, int]:
        """Return what resumes the stream after ``batches_seen`` batches of the current epoch."""
        return {**self._setting(), "epoch": self.epoch, "batches_seen": batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken, in the next iteration.

        Raises:
            TrainingError: The state is of another order.
        """
        setting = self._setting()
        if any(state[name] != value for name, value in setting.items()):
            raise TrainingError(
                "The run to resume had another data order.",
                got=setting,
                expected={name: state[name] for name in setting},
                advice="Resume with the same seed, batch size, processes and workers, or start a new run.",
            )
        self.epoch, self._start = state["epoch"], state["batches_seen"]

    def _setting(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "pool_batches": self.pool_batches,
            "readers": self._readers(),
        }

    def _readers(self) -> int:
        return processes.count() * max(1, self.num_workers)

    def _dealt(self) -> list[list[Shard]]:
        """Return the shards of every reader in this epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.shards))
        return [
            [self.shards[i] for i in order[reader :: self._readers()]] for reader in range(self._readers())
        ]

    def _batches_of_a_worker(self) -> int:
        """Return how many batches every reader gives in this epoch."""
        rows = [sum(len(shard.seconds) for shard in shards) for shards in self._dealt()]
        if len(rows) == 1:
            return -(-rows[0] // self.batch_size)
        count = min(rows) // self.batch_size
        if count == 0:
            raise TrainingError(
                "There are too few shards.",
                got=f"{len(self.shards)} for {len(rows)} readers",
                expected="at least one shard with a whole batch for each",
                advice="Write smaller shards, or use fewer workers.",
            )
        return count

    def __iter__(self) -> Iterator[list[Item]]:
        worker = get_worker_info()
        count, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        if count != max(1, self.num_workers):
            raise ConfigError(f"This stream was made for {self.num_workers} workers.", got=count)
        seen, self._start = self._start, 0
        # The loader asks its workers in turn, from the first one on: the one whose turn it is comes first.
        number = (number + seen) % count
        reader = processes.rank() * count + number
        total = self._batches_of_a_worker()
        if number == 0:
            self._tell_what_is_left_out(total)
        yield from self._batches(reader, (seen - number + count - 1) // count, total)

    def _tell_what_is_left_out(self, total: int) -> None:
        rows = sum(len(shard.seconds) for shard in self.shards)
        left = rows - total * self.batch_size * self._readers()
        if left > 0 and self._readers() > 1 and processes.is_main():
            logger.info("Epoch %d leaves %d of %d utterances for another epoch.", self.epoch, left, rows)

    def _batches(self, reader: int, start: int, total: int) -> Iterator[list[Item]]:
        """Yield the batches of one reader from batch ``start`` on."""
        shards = self._dealt()[reader]
        seconds = np.concatenate([shard.seconds for shard in shards])
        if self._readers() > 1:
            seconds = seconds[: total * self.batch_size]
        pool_rows = self.pool_batches * self.batch_size
        pool, skip = divmod(start, self.pool_batches)
        stream = _samples_from(shards, pool * pool_rows)
        for first in range(pool * pool_rows, len(seconds), pool_rows):
            samples = list(islice(stream, len(seconds[first : first + pool_rows])))
            order = self._order(seconds[first : first + pool_rows], [reader, first])
            for rows in order[skip:]:
                yield [self._decoded(samples, int(row)) for row in rows]
            skip = 0

    def _order(self, seconds: np.ndarray, place: list[int]) -> list[np.ndarray]:
        """Cut a pool into batches of like length, in random order; an incomplete one stays last."""
        rng = np.random.default_rng([self.seed, self.epoch, *place])
        rows = rng.permutation(len(seconds))
        whole = len(rows) // self.batch_size * self.batch_size
        by_length = rows[:whole][np.argsort(seconds[rows[:whole]], kind="stable")]
        batches = list(by_length.reshape(-1, self.batch_size))
        rng.shuffle(batches)
        return batches + ([rows[whole:]] if whole < len(rows) else [])

    def _decoded(self, samples: list[dict[str, Any]], row: int) -> Item:
        """Decode a row of a pool, or, where it is corrupt, the next one that is not."""
        for step in range(len(samples)):
            sample = samples[(row + step) % len(samples)]
            utterance = Utterance.model_validate_json(sample["json"])
            try:
                return utterance, load_audio(sample["flac"])
            except AudioError as error:
                self._note_corrupt(utterance, error)
        raise TrainingError("No clip of a pool can be read.", advice="Write the shards again.")

    def _note_corrupt(self, utterance: Utterance, error: AudioError) -> None:
        if not self.max_corrupt_share:
            raise error
        if utterance.id in self._corrupt:
            return
        self._corrupt.add(utterance.id)
        logger.warning("Clip %s is left out (%d so far): %s", utterance.id, len(self._corrupt), error)
        if len(self._corrupt) > self.max_corrupt_share * sum(len(shard.seconds) for shard in self.shards):
            raise TrainingError("Too many clips are corrupt.", got=len(self._corrupt))


def _samples_from(shards: list[Shard], first: int) -> Iterator[dict[str, Any]]:
    """Yield the encoded rows of shards from row ``first`` on; shards before it are not opened."""
    import webdataset

    before = 0
    while before < len(shards) and first >= len(shards[before].seconds):
        first -= len(shards[before].seconds)
        before += 1
    paths = [str(shard.path) for shard in shards[before:]]
    if not paths:
        return iter(())
    stream = webdataset.WebDataset(
        paths, shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
    )
    return islice(iter(stream), first, None)
