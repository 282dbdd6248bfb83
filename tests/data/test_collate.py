"""Datasets and collation: right content for every row, and the policy for corrupt clips."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from torch.utils.data import DataLoader

from aista.audio import write_audio
from aista.data.dataset import Collator, SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.recordings import MEMO, SoundNames
from aista.data.sampling import LengthGroupedSampler
from aista.errors import AudioError, ManifestError, TrainingError


@dataclass
class Recorded:
    """What a batcher was handed."""

    contents: list
    instructions: list
    targets: list | None = None
    transcripts: list | None = None
    labels: None = None


class Recorder:
    """A batcher that gives back what it was handed."""

    translation = training = staticmethod(Recorded)

    @staticmethod
    def written(batch, transcripts, whole):
        return transcripts


def corpus(folder, count=8, *, corrupt=(), name="m.jsonl"):
    rows = []
    for index in range(count):
        path = folder / "clips" / f"{index}.wav"
        write_audio(path, np.full(1_600 * (index + 1), index / 100 + 0.001))
        if index in corrupt:
            path.write_bytes(b"garbage")
        rows.append(
            Utterance(
                id=f"u{index}", audio=f"clips/{index}.wav", duration=0.1 * (index + 1),
                task="st", tgt_lang="zh", text=f"text {index}", translation=f"文 {index}",
            )
        )  # fmt: skip
    write_manifest(folder / name, rows)
    return Manifest(folder / name)


def test_items_lengths_and_subsets(tmp_path):
    dataset = SpeechDataset([corpus(tmp_path / "a"), corpus(tmp_path / "b", 3)])
    assert len(dataset) == 11
    utterance, samples = dataset[9]
    assert utterance.id == "u1" and utterance.audio == str(tmp_path / "b" / "clips" / "1.wav")
    assert samples.dtype == np.float32 and len(samples) == 3_200
    assert np.allclose(dataset.lengths[:3], [0.1, 0.2, 0.3])
    part = dataset.subset([9, 0])
    assert [u.id for u in part.utterances()] == ["u1", "u0"] and np.allclose(part.lengths, [0.2, 0.1])
    assert len(pickle.loads(pickle.dumps(part))) == 2
    with pytest.raises(IndexError):
        dataset[11]


def test_lengths_fall_back_on_the_file(tmp_path):
    manifest = corpus(tmp_path, 2)
    rows = [u.model_copy(update={"duration": None, "offset": 0.05}) for u in manifest]
    write_manifest(tmp_path / "no-duration.jsonl", rows)
    dataset = SpeechDataset(Manifest(tmp_path / "no-duration.jsonl"))
    assert np.allclose(dataset.lengths, [0.05, 0.15]) and len(dataset[1][1]) == 2_400


def test_clips_are_distinct_sounds_not_rows(tmp_path):
    corpus(tmp_path / "a")
    other = SpeechDataset([corpus(tmp_path / "b", 2)])
    write_audio(tmp_path / "b" / "clips" / "0.wav", np.full(1_600, 0.5))
    both = SpeechDataset([Manifest(tmp_path / "a" / "m.jsonl")] * 2 + other.manifests)
    # the same path and size in another folder is another sound; b/clips/1.wav is a copy of a/clips/1.wav
    assert len(both.clips()) == 9
    first = both.feature_key(both.utterance(0))
    assert other.feature_key(other.utterance(0)) != first and len(both.without([first])) == 8
    near = [other.utterance(0).model_copy(update={"offset": 12_345.67 + step}) for step in (0.0, 0.01)]
    assert other.feature_key(near[0]) != other.feature_key(near[1])  # neighbours in a long recording


def test_a_moved_corpus_keeps_its_features(tmp_path):
    clips = SpeechDataset(corpus(tmp_path / "here"), sounds=SoundNames(tmp_path / "cache")).clips()
    with FeatureStoreWriter(tmp_path / "cache", 4) as writer:
        for utterance, _ in (clips[i] for i in range(len(clips))):
            writer.add(clips.feature_key(utterance), np.ones((17, 4)))
    assert len((tmp_path / "cache" / MEMO).read_text().splitlines()) == 8  # whose names are known from now on
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Manifest(tmp_path / "there" / "m.jsonl")
    dataset = SpeechDataset(moved, features=FeatureStore(tmp_path / "cache"))
    assert len(dataset.without(FeatureStore(tmp_path / "cache"))) == 0 and dataset[3][1].shape == (17, 4)
    write_audio(tmp_path / "there" / "clips" / "3.wav", np.full(6_400, 0.7))
    with pytest.raises(AudioError, match="are not in"):
        dataset[3]


def test_a_missing_file_is_no_distinct_clip_twice(tmp_path):
    manifest = corpus(tmp_path, 3)
    (tmp_path / "clips" / "1.wav").unlink()
    assert len(SpeechDataset([manifest, manifest]).clips()) == 3


def test_cached_features_take_the_place_of_samples(tmp_path):
    manifest = corpus(tmp_path)
    clips = SpeechDataset(manifest).clips()
    with FeatureStoreWriter(tmp_path / "cache", 4) as writer:
        for utterance, _ in (clips[i] for i in range(7)):
            writer.add(clips.feature_key(utterance), np.ones((17, 4)))
    dataset = SpeechDataset(manifest, features=FeatureStore(tmp_path / "cache"))
    batch = Collator(Recorder())([dataset[0], dataset[1]])["speech"]
    assert [f.shape for f in batch.contents] == [(17, 4), (17, 4)]
    with pytest.raises(AudioError, match="are not in"):
        dataset[7]


def test_a_corrupt_clip_raises_where_none_may_be(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[2]))
    with pytest.raises(AudioError, match=r"2\.wav"):
        dataset[2]


def test_a_corrupt_clip_is_logged_counted_and_replaced(tmp_path, caplog):
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[2, 3]), max_corrupt_share=0.25)
    utterance, samples = dataset[2]
    assert utterance.id == "u4" and len(samples) == 8_000
    assert dataset.num_corrupt == 2 and "u2" in caplog.text and "u3" in caplog.text
    assert dataset[2][0].id == "u4" and dataset.num_corrupt == 2
    assert dataset[7][0].id == "u7"
    part = dataset.subset([4, 2, 7])  # next in length, and of its own rows
    assert [part[i][0].id for i in range(3)] == ["u4", "u4", "u7"]


def test_too_many_corrupt_clips_end_the_run(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[2, 5]), max_corrupt_share=0.13)
    assert dataset[2][0].id == "u3"
    with pytest.raises(TrainingError, match="Too many") as caught:
        dataset[5]
    assert "u2" in str(caught.value) and "u5" in str(caught.value)


def test_a_subset_may_hold_the_corrupt_clips_of_the_whole(tmp_path):
    """What precedes training looks at the first clips, a second encoding at those that failed."""
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[2, 5]), max_corrupt_share=0.25)
    assert dataset.subset([2, 3])[0][0].id == "u3"
    assert list(dataset.subset([2, 5]).readable(range(2))) == []
    with pytest.raises(TrainingError, match="1 of 8"):
        SpeechDataset(corpus(tmp_path, corrupt=[2]), max_corrupt_share=0.1).subset([2, 3])[0]


def test_readable_items_only(tmp_path, caplog):
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[2, 5]))
    assert [row.id for row, _ in dataset.readable(range(1, 7))] == ["u1", "u3", "u4", "u6"]
    assert dataset.num_corrupt == 2 and "u5" in caplog.text


def test_manifests_can_be_weighed(tmp_path):
    dataset = SpeechDataset([corpus(tmp_path / "a"), corpus(tmp_path / "b", 2)])
    assert dataset.sources.tolist() == [0] * 8 + [1] * 2
    assert dataset.subset([9, 0]).sources.tolist() == [1, 0]
    sampler = LengthGroupedSampler(dataset.lengths, 2, groups=dataset.sources, weights={0: 1.0, 1: 1.0})
    assert sum(dataset.sources[sampler.order(0)]) == 5


def test_workers_share_the_count(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path, corrupt=[1, 6]), max_corrupt_share=0.5)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=Collator(Recorder()))
    ids = [name for batch in loader for name in batch["ids"]]
    assert ids == ["u0", "u2", "u2", "u3", "u4", "u5", "u7", "u7"]
    assert dataset.num_corrupt == 2


def test_too_long_is_an_error_or_a_counted_skip(tmp_path, caplog):
    manifest = corpus(tmp_path)
    with pytest.raises(ManifestError, match="2 clips are too long"):
        SpeechDataset(manifest, max_seconds=0.65)
    dataset = SpeechDataset(manifest, max_seconds=0.65, too_long="skip")
    assert len(dataset) == 6 and len(dataset.lengths) == 6 and "2 clips longer than 0.65 s" in caplog.text
    with pytest.raises(ManifestError, match="No utterance is shorter"):
        SpeechDataset(manifest, max_seconds=0.05, too_long="skip")
    assert len(SpeechDataset(manifest, max_seconds=0.8)) == 8  # as long as the limit is not too long


def test_collator_hands_over_audio_instructions_and_texts(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path))
    batch = Collator(Recorder(), transcripts=True)([dataset[0], dataset[1]])
    speech = batch["speech"]
    assert speech.instructions == ["Translate the speech into Chinese."] * 2
    assert speech.targets == ["文 0", "文 1"] and batch["text"] == ["text 0", "text 1"]
    assert [len(a) for a in speech.contents] == [1_600, 3_200]
    assert batch["ids"] == ["u0", "u1"]
    question = Collator(Recorder(), targets=False)([dataset[0]])
    assert question["speech"].targets is None and question["text"] is None


def test_prompts_are_drawn_by_epoch_and_id_or_fixed(tmp_path):
    row = SpeechDataset(corpus(tmp_path)).utterance(0)
    drawn = {}
    for epoch in range(12):
        collator = Collator(Recorder(), prompt_pool=True, seed=1)
        collator.set_epoch(epoch)
        drawn[epoch] = collator.instruction(row)
        assert collator.instruction(row) == drawn[epoch]
    assert len(set(drawn.values())) == 3
    rows = [row.model_copy(update={"id": f"u{i}"}) for i in range(12)]
    assert len({collator.instruction(each) for each in rows}) == 3  # not one wording for a whole epoch
    assert len({Collator(Recorder(), prompt_pool=True, seed=i).instruction(row) for i in range(12)}) == 3
    own = row.model_copy(update={"prompt": "Say it in Chinese."})
    assert Collator(Recorder(), prompt_pool=True).instruction(own) == "Say it in Chinese."


def test_text_rows_fill_the_slot_with_text(tmp_path):
    rows = [Utterance(id="t", task="mt", tgt_lang="ja", text="Hi.", translation="やあ。")]
    write_manifest(tmp_path / "mt.jsonl", rows)
    dataset = SpeechDataset([Manifest(tmp_path / "mt.jsonl"), corpus(tmp_path)])
    assert Collator(Recorder())([dataset[0]])["speech"].contents == ["Hi."]


def test_missing_text_is_refused(tmp_path):
    item = SpeechDataset(corpus(tmp_path))[0]
    with pytest.raises(ManifestError, match="no transcript"):
        Collator(Recorder(), transcripts=True)([(item[0].model_copy(update={"text": ""}), item[1])])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ManifestError, match="no utterance"):
        SpeechDataset(Manifest(tmp_path / "empty.jsonl"))
