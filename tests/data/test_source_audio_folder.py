from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.audio_folder import AudioFolder
from lepton_automl.data.sources.manifest import Manifest
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.front_end_onnx import compute_features
from tests.helpers.sounds import tone, tones, write


def example(folder):
    return str(tones(folder, 4))


def decision(found, name):
    return next((each for each in found.decisions if each.name == name), None)


def test_recordings_are_cut_and_windows_know_theirs(tmp_path):
    samples = AudioFolder(window=2400, stride=1200).read(example(tmp_path))
    assert samples.class_names == ("high", "low", "middle")
    assert samples.sound.shape == (3 * (3 + 1 + 1 + 3), 2400)
    assert samples.ids[:4] == (
        "high/high-0.wav[0]",
        "high/high-0.wav[1]",
        "high/high-0.wav[2]",
        "high/high-1.wav",
    )
    np.testing.assert_array_equal(samples.recordings[:6], [0, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(samples.groups, samples.recordings)
    whole = tone(2500, 0.6, seed=200)
    np.testing.assert_array_equal(samples.sound[1], whole[1200:3600])


def test_the_window_holds_most_recordings_whole(tmp_path):
    for n in range(40):
        write(tmp_path / "ab"[n % 2] / f"{n}.wav", tone(500, 0.5 + 0.2 * (n == 0), seed=n))
    samples = AudioFolder().read(str(tmp_path))
    assert 0.5 <= samples.sound.shape[1] / 8000 < 0.6
    (frame, hop) = 256, 160
    assert (samples.sound.shape[1] - frame) % (4 * hop) == 3 * hop
    assert "1 are cut" in decision(samples, "windows").evidence


def test_whole_recordings_of_one_length_are_not_cut_or_padded(tmp_path):
    for n in range(6):
        write(tmp_path / "ab"[n % 2] / f"{n}.wav", tone(500, 1.0, seed=n))
    samples = AudioFolder().read(str(tmp_path))
    assert samples.sound.shape == (6, 8000)
    assert samples.groups is None


def test_rates_are_brought_to_the_most_frequent_one_that_is_not_too_high(tmp_path):
    for n, rate in enumerate((44100, 44100, 22050, 8000)):
        write(tmp_path / "a" / f"{n}.wav", tone(500, 0.5, rate, seed=n), rate)
        write(tmp_path / "b" / f"{n}.wav", tone(900, 0.5, rate, seed=n), rate)
    samples = AudioFolder().read(str(tmp_path))
    assert samples.audio.rate == 16000
    made = decision(samples, "sampling rate")
    assert "8 of 8 recordings are resampled" in made.choice
    assert made.option == "--rate"
    stated = AudioFolder(rate=8000).read(str(tmp_path))
    assert (stated.audio.rate, decision(stated, "sampling rate")) == (8000, None)
    np.testing.assert_array_equal(stated.sound[3, :4000], tone(500, 0.5, 8000, seed=3))


def test_background_noise_is_a_class_whose_windows_stand_alone(tmp_path):
    data = tones(tmp_path, 3)
    for n in range(3):
        write(data / "_background_noise_" / f"{n}.wav", tone(50, 3, seed=n))
    samples = AudioFolder(window=2400, stride=600).read(str(data))
    noise = np.flatnonzero(samples.labels == samples.class_names.index("background"))
    assert len(noise) == 3 * 10
    assert len(np.unique(samples.recordings[noise])) == 30
    assert len(np.unique(samples.groups[noise])) == 3
    assert decision(samples, "background class") is not None


def test_all_unreadable_recordings_are_named_in_one_error(tmp_path):
    data = tones(tmp_path, 3)
    (data / "low" / "bad.wav").write_bytes(b"RIFF")
    (data / "high" / "worse.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 11 recordings cannot be read.*bad.wav|worse.wav"):
        AudioFolder().read(str(data))
    kept = open_dataset(data, skip_corrupt=True)
    assert sum(map(len, kept.parts)) == len(AudioFolder(skip_corrupt=True).read(str(data)))
    assert "ignored 2 of 11 recordings" in kept.notes[0]


def table(folder, rows):
    (folder / "table.csv").write_text("\n".join(["path,label,speaker,room", *rows]) + "\n")
    return folder / "table.csv"


def test_a_table_of_recordings_is_the_same_data_as_their_folder(tmp_path):
    data = tones(tmp_path, 6)
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.wav"))]
    rows = [f"{name},{name.split('/')[0]},s{n % 9},r{n % 2}" for n, name in enumerate(names)]
    path = table(data, rows[::-1])
    folder, found = AudioFolder(window=2400).read(str(data)), Manifest(window=2400).read(str(path))
    for one, two in ((folder.sound, found.sound), (folder.labels, found.labels)):
        np.testing.assert_array_equal(one, two)
    assert (folder.ids, folder.class_names) == (found.ids, found.class_names)
    np.testing.assert_array_equal(folder.recordings, found.recordings)
    assert len(np.unique(found.groups)) == 9  # Speakers stay in one part.
    assert set(found.attributes["room"]) == {"r0", "r1"}
    dataset = open_dataset(path, mels=20, band_mean="keep")
    assert (dataset.kind, dataset.size[1]) == ("audio", 20)


def test_recordings_without_folders_of_classes_are_refused(tmp_path):
    write(tmp_path / "a.wav", tone(500, 0.3))
    with pytest.raises(DataError, match="no folders with recordings") as caught:
        open_dataset(tmp_path)
    assert "DATA/CLASS/RECORDING.wav" in caught.value.fix


def test_options_of_sound_have_no_effect_on_other_tables(tmp_path):
    for name in "ab":
        np.savetxt(tmp_path / f"{name}.csv", np.zeros((20, 2)), delimiter=",")
    path = table(tmp_path, ["a.csv,x,1,1", "b.csv,y,1,1"])
    with pytest.raises(ConfigError, match="--rate 8000 has no effect"):
        open_dataset(path, rate=8000)


def test_nets_see_the_features_that_the_file_computes(tmp_path):
    data = tones(tmp_path / "data", 12)
    dataset = open_dataset(data, band_mean="keep")
    assert dataset.kind == "audio"
    assert dataset.front_end.stride == dataset.front_end.window // 2
    for part in dataset.parts:
        np.testing.assert_array_equal(
            part.pictures, compute_features(dataset.front_end, part.audio)
        )
        assert part.audio.dtype == np.int16
    assert dataset.size == dataset.front_end.feature_shape[:2]
    files = dataset.file_input_files("test", dataset.size, tmp_path / "cache")
    np.testing.assert_array_equal(np.load(files.pixels), dataset.test.audio)
    # The loudest features of the training part end just below the top of the range.
    assert 200 < np.quantile(dataset.train.pictures, 0.999) <= 255
    centred = open_dataset(data, band_mean="subtract")
    apart = np.abs(centred.train.pictures.astype(int) - 128)
    assert 126 <= np.quantile(apart, 0.999) <= 127
    assert abs(centred.train.pictures.mean() - 128) < 2


def test_the_range_is_that_of_the_training_part(tmp_path):
    levels = {"quiet": (500.0, 20000.0), "loud": (20000.0, 500.0), "alike": (500.0, 700.0)}
    for name, pair in levels.items():
        for part, level in zip(("train", "test"), pair, strict=True):
            for n in range(8):
                place = tmp_path / name / part / "ab"[n % 2] / f"{n}.wav"
                write(place, tone(500, 0.3, seed=n, level=level))
    quiet, loud, alike = (
        open_dataset(tmp_path / name, band_mean="subtract").front_end for name in levels
    )
    assert (quiet.floor, quiet.step) == (alike.floor, alike.step)
    assert 1000 < loud.floor / quiet.floor < 2000  # The square of 40.


def sweeps(folder):
    """Tones that rise, or fall, each of four microphones with another loudness and spectrum."""
    rng = np.random.default_rng(0)
    for n in range(80):
        time = np.arange(3200) / 8000
        turn = 500 * time + (1 if n % 2 else -1) * 900 * (time - 0.2) ** 2 * np.sign(time - 0.2)
        wave = np.sin(2 * np.pi * turn * 2) * 10 ** (2 + n % 4 * 0.6)
        hum = np.sin(2 * np.pi * (400 + 600 * (n % 4)) * time) * 10 ** (2 + n % 4 * 0.6)
        samples = (wave + hum + rng.normal(0, 10, 3200)).astype(np.int16)
        write(folder / ("up" if n % 2 else "down") / f"m{n % 4}-{n}.wav", samples)
    return folder


def test_means_of_bands_are_kept_where_the_classes_differ_in_them(tmp_path):
    """Tones are told apart by what lasts; sweeps are not."""
    lasting = open_dataset(tones(tmp_path / "tones", 12), window=2400)
    assert not lasting.front_end.is_centred
    assert decision(lasting, "means of bands").option == "--band-mean subtract"
    changing = open_dataset(sweeps(tmp_path / "sweeps"), group=r"(m\d)-")
    assert changing.front_end.is_centred
    assert decision(changing, "means of bands").option == "--band-mean keep"
    kept = open_dataset(tmp_path / "sweeps", group=r"(m\d)-", band_mean="keep")
    assert not kept.front_end.is_centred
    assert decision(kept, "means of bands") is None


def test_windows_of_one_recording_stay_in_one_part(tmp_path):
    dataset = open_dataset(tones(tmp_path, 12), window=2400, stride=1200)
    numbers = [set(part.recordings.tolist()) for part in dataset.parts]
    assert len(set.union(*numbers)) == sum(map(len, numbers)) == 36
    for group in ("none", r"-(\d+)\.wav"):
        other = open_dataset(tmp_path, window=2400, stride=1200, group=group)
        names = [{name.split("[")[0] for name in part.ids} for part in other.parts]
        assert len(set.union(*names)) == sum(map(len, names)) == 36


def test_test_data_are_read_like_the_training_data(tmp_path):
    for n in range(6):
        write(tmp_path / "of" / "ab"[n % 2] / f"{n}.wav", tone(500, 0.5, 16000, seed=n), 16000)
        write(tmp_path / "more" / "ab"[n % 2] / f"{n}.wav", tone(500, 0.7, 44100, seed=n), 44100)
    dataset = open_dataset(tmp_path / "of", test=tmp_path / "more")
    assert dataset.test.audio.shape == (12, 8000)
    assert len(np.unique(dataset.test.recordings)) == 6


def test_options_are_checked(tmp_path):
    data = example(tmp_path)
    with pytest.raises(ConfigError, match="--mels 200") as caught:
        open_dataset(data, mels=200)
    most = int(caught.value.what.split(" to ")[-1].split()[0])
    assert open_dataset(data, mels=most).size[1] == most
    with pytest.raises(ConfigError, match="shorter than a frame"):
        open_dataset(data, window=100)
    with pytest.raises(ConfigError, match="--channels 3 has no effect"):
        open_dataset(data, channels="3")
    with pytest.raises(ConfigError, match="--mels has no effect"):
        open_dataset("digits", mels=20)


@pytest.mark.parametrize("name", ["a.wav", "a.oga", "a.mp3"])
def test_recordings_without_folders_of_classes_are_one_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"RIFF")
    (tmp_path / "LICENSE").write_text("free")
    with pytest.raises(DataError, match="no folders with recordings of sound") as caught:
        open_dataset(tmp_path)
    assert "DATA/CLASS/RECORDING.wav" in caught.value.fix


def test_equal_recordings_stay_in_one_part_and_equal_windows_chain_nothing(tmp_path):
    """As recordings under two names; each begins with the same silence."""
    silence = np.zeros(1600, np.int16)
    for name, hertz in (("low", 300), ("high", 2500)):
        for n in range(12):
            sound = np.concatenate([silence, tone(hertz, 0.4, seed=n)])
            for copy in ("a", "b"):
                write(tmp_path / name / f"{copy}{n}.wav", sound)
    dataset = open_dataset(tmp_path, window=1600, stride=1600)
    part_of = {}
    for part, samples in zip(("train", "validation", "test"), dataset.parts, strict=True):
        for name in samples.ids:
            file = name.partition("[")[0]
            part_of.setdefault(file.replace("/a", "/").replace("/b", "/"), set()).add(part)
    assert len(part_of) == 24
    assert all(len(parts) == 1 for parts in part_of.values())
    assert set.union(*part_of.values()) == {"train", "validation", "test"}
