"""The feature store: what goes in comes out, whatever is killed in between."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time

import numpy as np
import pytest

from aista.data.feature_store import FeatureStore, FeatureStoreWriter, estimate_bytes
from aista.errors import CheckpointError


def arrays(count: int = 5, dim: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"clip {i}@0+1": rng.normal(0, 3, (int(rng.integers(0, 40)), dim)).astype(np.float32)
        for i in range(count)
    }


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_round_trip(tmp_path, dtype, error):
    with FeatureStoreWriter(tmp_path, 8, dtype, fingerprint="whisper") as writer:
        for key, value in arrays().items():
            writer.add(key, value)
            writer.add(key, value + 1)  # the first one stays
    store = FeatureStore(tmp_path, fingerprint="whisper")
    assert list(store) == list(arrays()) and len(store) == 5
    for key, value in arrays().items():
        assert store[key].dtype == np.float32
        assert np.all(np.abs(store[key] - value) <= error * np.abs(value) + 1e-7)
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy["clip 3@0+1"], store["clip 3@0+1"])
    frames = sum(len(value) for value in arrays().values())
    size = (tmp_path / "features.bin").stat().st_size
    assert size == estimate_bytes([320 * frames], 8, dtype)


def test_bfloat16_rounds_as_torch_does():
    import torch

    from aista.data.feature_store import _decode, _encode

    values = np.random.default_rng(0).normal(0, 100, 10_000).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(_decode(_encode(values, "bfloat16"), "bfloat16"), expected)


@pytest.mark.parametrize("harm", ["torn index line", "torn data", "both whole"])
def test_a_killed_writer_goes_on(tmp_path, harm):
    data = arrays(9)
    writer = FeatureStoreWriter(tmp_path, 8)
    for key in list(data)[:5]:
        writer.add(key, data[key])
    writer.flush()
    writer.add("lost", np.zeros((3, 8)))  # never flushed: the process dies here
    if harm == "torn index line":
        with (tmp_path / "index.tsv").open("ab") as file:
            file.write(b"12\tclip")
    if harm == "torn data":
        with (tmp_path / "features.bin").open("r+b") as file:
            file.truncate(file.seek(0, 2) - 5)
    with pytest.raises(CheckpointError, match="not complete"):
        FeatureStore(tmp_path)
    writer._lock.release()  # as the system does for a process that died
    with FeatureStoreWriter(tmp_path, 8) as again:
        assert len(again) == (4 if harm == "torn data" else 5)
        for key, value in data.items():
            again.add(key, value)
    store = FeatureStore(tmp_path)
    assert set(store) == set(data)
    assert all(np.allclose(store[key], value, rtol=2e-3, atol=1e-3) for key, value in data.items())


def test_an_exception_leaves_it_incomplete(tmp_path):
    with pytest.raises(RuntimeError), FeatureStoreWriter(tmp_path, 8) as writer:
        writer.add("a", np.ones((2, 8)))
        raise RuntimeError
    with pytest.raises(CheckpointError, match="not complete"):
        FeatureStore(tmp_path)
    with FeatureStoreWriter(tmp_path, 8) as writer:
        assert "a" in writer


def test_what_does_not_fit_is_refused(tmp_path):
    with FeatureStoreWriter(tmp_path, 8, fingerprint="one") as writer:
        for key, value in [("a", np.ones((2, 7))), ("", np.ones((2, 8))), ("a\tb", np.ones((2, 8)))]:
            with pytest.raises(CheckpointError, match="do not fit"):
                writer.add(key, value)
        with pytest.raises(CheckpointError, match="float16"):
            writer.add("big", np.full((1, 8), 1e6))
    with pytest.raises(CheckpointError, match="another kind"):
        FeatureStoreWriter(tmp_path, 8, fingerprint="two")
    with pytest.raises(CheckpointError, match="another encoder"):
        FeatureStore(tmp_path, fingerprint="two")
    with pytest.raises(CheckpointError, match="no features"):
        FeatureStore(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="Unknown feature type"):
        FeatureStoreWriter(tmp_path / "x", 8, "int8")


def test_a_damaged_store_is_noticed(tmp_path):
    with FeatureStoreWriter(tmp_path, 8) as writer:
        writer.add("a", np.ones((20, 8)))
    with (tmp_path / "features.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(CheckpointError, match="damaged"):
        FeatureStore(tmp_path)


def test_readers_go_on_while_a_complete_store_grows(tmp_path):
    data = arrays(200)
    with FeatureStoreWriter(tmp_path, 8) as writer:
        writer.add("old", np.ones((3, 8)))
    store = FeatureStore(tmp_path)
    with FeatureStoreWriter(tmp_path, 8) as writer:
        for key, value in data.items():
            writer.add(key, value)
        late = pickle.loads(pickle.dumps(store))  # a worker process that starts now
        for each in (store, late):
            assert np.array_equal(each["old"], np.ones((3, 8)))
    assert set(FeatureStore(tmp_path)) == {"old", *data} and list(store) == ["old"]


def _fill(folder: str, first: int) -> None:
    with FeatureStoreWriter(folder, 8) as writer:
        for number in range(first, first + 300):
            writer.add(f"clip {number}", np.full((number % 7, 8), number))


@pytest.mark.slow
def test_two_processes_fill_one_store_one_after_the_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fill, args=(str(tmp_path), first)) for first in (0, 150)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    store = FeatureStore(tmp_path)
    assert len(store) == 450
    for number in range(450):
        assert np.array_equal(store[f"clip {number}"], np.full((number % 7, 8), number))


def test_a_second_writer_says_that_it_waits(tmp_path, caplog):
    first = FeatureStoreWriter(tmp_path, 8)
    second = threading.Thread(target=lambda: FeatureStoreWriter(tmp_path, 8).close())
    second.start()
    while "waiting" not in caplog.text:
        time.sleep(0.01)
    first.close()
    second.join(timeout=10)
    assert not second.is_alive()
