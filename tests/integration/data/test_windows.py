from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hms_tune.data.labels import Labels, make_labels, unlabelled
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS
from hms_tune.data.store.gather import MappedGather, ResidentGather, StreamedGather, upload
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource
from hms_tune.errors import DataError

DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    return prepare(competition_writer(tmp_path_factory.mktemp("windows") / "hms", patients=3))


@pytest.fixture(scope="module")
def labels(store: Store) -> Labels:
    return make_labels(store.train, rows="vote_vector")


def eeg_file(store: Store, eeg_id: int) -> np.ndarray:
    table = pq.read_table(store.root / "train_eegs" / f"{eeg_id}.parquet")
    return np.stack([table[name].to_numpy() for name in EEG_COLUMNS]).astype(np.float64)


@pytest.mark.parametrize("device", DEVICES)
def test_eeg_windows_are_the_labelled_rows_of_the_files(
    store: Store, labels: Labels, device: torch.device
) -> None:
    index = torch.tensor([7, 0, 3, 0])
    windows = WindowSource(store, labels, device).eeg(index)
    assert windows.shape == (4, 20, 10_000)
    assert windows.dtype == torch.float32
    assert windows.device.type == device.type
    assert windows.is_contiguous()
    for window, row in zip(windows.cpu().numpy(), index.tolist(), strict=True):
        original = eeg_file(store, int(labels.eeg_id[row]))
        start = int(200 * labels.eeg_offset_seconds[row])
        centre = store.recordings.loc[labels.eeg_id[row], [f"centre_{name}" for name in EEG_COLUMNS]]
        centred = original - centre.to_numpy(np.float64)[:, None]
        expected = np.nan_to_num(centred[:, start : start + 10_000])
        np.testing.assert_allclose(window, expected, rtol=2.0**-11, atol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_spectrogram_windows_are_the_labelled_frames_of_the_files(
    store: Store, labels: Labels, device: torch.device
) -> None:
    index = torch.tensor([11, 4])
    windows = WindowSource(store, labels, device).spectrogram(index)
    assert windows.shape == (2, 400, 300)
    assert windows.dtype == torch.float32
    for window, row in zip(windows.cpu().numpy(), index.tolist(), strict=True):
        table = pq.read_table(store.root / f"train_spectrograms/{labels.spectrogram_id[row]}.parquet")
        power = np.stack([table[name].to_numpy() for name in SPECTROGRAM_COLUMNS])
        start = int(labels.spectrogram_offset_seconds[row] // 2)
        np.testing.assert_allclose(window, np.log(power[:, start : start + 300]), atol=2.0**-8)
        assert np.isnan(window).all(axis=0).sum() == 4


def test_shifts_move_windows_within_their_recording(store: Store, labels: Labels) -> None:
    source = WindowSource(store, labels, torch.device("cpu"))
    index = torch.tensor([0, 0, 0])  # offset 0 s in a recording of 60 s
    still, moved, far = source.eeg(index, torch.tensor([-5_000, 500, 99_999]))
    whole = torch.from_numpy(np.array(store.eeg[:12_000], dtype=np.float32)).T.nan_to_num()
    torch.testing.assert_close(still, whole[:, :10_000])
    torch.testing.assert_close(moved, whole[:, 500:10_500])
    torch.testing.assert_close(far, whole[:, 2_000:])


@pytest.mark.parametrize("device", DEVICES)
def test_a_spectrogram_that_ends_early_is_padded_with_nan(
    store: Store, labels: Labels, device: torch.device
) -> None:
    late = labels.take(np.array([11, 10, 0]))
    late.spectrogram_offset_seconds[:] = [600.0, 0.0, 30.0]  # files of 310 frames; row 11 is the split's last
    windows = WindowSource(store, late, device).spectrogram(torch.tensor([0, 1, 2])).cpu()
    last = store.spectrograms.loc[5005]
    torch.testing.assert_close(
        windows[0, :, :10],
        torch.from_numpy(np.array(store.spectrogram[last["start"] + 300 :][:10], dtype=np.float32)).T,
    )
    assert windows[0, :, 10:].isnan().all()
    assert windows[1].isnan().all(dim=0).sum() == 4
    assert windows[2, :, 295:].isnan().all()
    assert not windows[2, :, 294].isnan().any()


def test_a_store_with_one_short_spectrogram_is_padded_too(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), test_recordings=1)
    path = root / "test_spectrograms" / "8000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    store = prepare(root)
    source = WindowSource(store, unlabelled(store.test), torch.device("cpu"))
    window = source.spectrogram(torch.tensor([0]))[0]
    assert not window[:, :20].isnan().any()
    assert window[:, 100:].isnan().all()


@pytest.mark.parametrize("array", ["eeg", "spectrogram"])
def test_resident_streamed_and_mapped_windows_are_the_same(store: Store, array: str) -> None:
    rows: np.ndarray = getattr(store, array)
    length, cpu = (10_000 if array == "eeg" else 300), torch.device("cpu")
    start = torch.tensor([0, 3, 2_000, len(rows) - 120, len(rows) + 5])
    mapped = MappedGather(rows, length)(start)
    resident = ResidentGather(upload(rows, length, cpu), length)(start)
    streamed = StreamedGather(rows, length, cpu)(start)
    for other in (resident, streamed):
        torch.testing.assert_close(other, mapped, equal_nan=True, rtol=0, atol=0)
    np.testing.assert_array_equal(mapped[2].numpy(), rows[2_000 : 2_000 + length])
    np.testing.assert_array_equal(mapped[3, :120].numpy(), rows[-120:])
    assert mapped[3, 120:].isnan().all()
    assert mapped[4].isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_resident_windows_are_gathered_without_waiting_for_the_gpu(store: Store, labels: Labels) -> None:
    device = torch.device("cuda", 0)
    source = WindowSource(store, labels, device, resident=("eeg", "spectrogram"))
    rows, shift = torch.tensor([3, 0, 7], device=device), torch.tensor([5, -900, 0], device=device)
    expected = WindowSource(store, labels, torch.device("cpu"))
    source.eeg(rows, shift)  # the first call copies the store
    source.spectrogram(rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        eeg, spectrogram = source.eeg(rows, shift), source.spectrogram(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(eeg.cpu(), expected.eeg(rows.cpu(), shift.cpu()))
    torch.testing.assert_close(spectrogram.cpu(), expected.spectrogram(rows.cpu()), equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_streamed_windows_arrive_on_the_gpu_as_they_are_on_the_host(store: Store, labels: Labels) -> None:
    device = torch.device("cuda", 0)
    source = WindowSource(store, labels, device, resident=())
    batches = [torch.arange(first, first + 3) for first in range(0, 9, 3)]
    expected = WindowSource(store, labels, torch.device("cpu"))
    source.announce(lambda: ((rows, None) for rows in batches), ("eeg", "spectrogram"))
    for rows in batches:
        assert torch.equal(source.eeg(rows).cpu(), expected.eeg(rows))
        torch.testing.assert_close(source.spectrogram(rows).cpu(), expected.spectrogram(rows), equal_nan=True)


def test_an_array_shorter_than_one_window_is_filled_up() -> None:
    rows = np.arange(8, dtype=np.float16).reshape(4, 2)
    for gather in (MappedGather(rows, 6), ResidentGather(upload(rows, 6, torch.device("cpu")), 6)):
        window = gather(torch.tensor([1]))[0]
        assert window[:3].tolist() == [[2, 3], [4, 5], [6, 7]]
        assert window[3:].isnan().all()


def test_announced_batches_are_gathered_ahead_and_others_on_the_spot(store: Store) -> None:
    gather = StreamedGather(store.spectrogram, 300, torch.device("cpu"))
    wanted = [torch.tensor([first, first + 1]) for first in range(0, 100, 10)]
    expected = [MappedGather(store.spectrogram, 300)(start) for start in wanted]
    gather.announce(iter(wanted))
    for start, windows in zip(wanted, expected, strict=True):
        assert torch.equal(gather(start).nan_to_num(), windows.nan_to_num())
    assert gather.ahead_of_time == 10
    gather.announce(iter(wanted))
    other = torch.tensor([7])  # not what was announced: given all the same, and the rest is forgotten
    assert torch.equal(gather(other).nan_to_num(), MappedGather(store.spectrogram, 300)(other).nan_to_num())
    assert torch.equal(gather(wanted[0]).nan_to_num(), expected[0].nan_to_num())
    assert gather.ahead_of_time == 10


def test_test_rows_come_in_the_order_of_the_table(store: Store) -> None:
    rows = unlabelled(store.test)
    assert rows.eeg_id.tolist() == [3000, 3001]
    assert rows.targets.sum() == 0
    windows = WindowSource(store, rows, torch.device("cpu")).eeg(torch.tensor([1]))
    expected = np.nan_to_num(np.array(store.eeg[-10_000:], dtype=np.float32).T)
    np.testing.assert_array_equal(windows[0].numpy(), expected)


def test_a_folder_without_spectrograms_serves_eeg_and_names_the_missing_spectrograms(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    store = prepare(competition_writer(tmp_path / "hms", splits=("test",), spectrograms=False))
    source = WindowSource(store, unlabelled(store.test), torch.device("cpu"))
    assert source.eeg(torch.tensor([0, 1])).shape == (2, 20, 10_000)
    with pytest.raises(
        DataError, match=r"test_spectrograms: spectrogram_id 8000, 8001 without a spectrogram"
    ):
        source.spectrogram(torch.tensor([0]))


def test_an_eeg_that_is_not_in_the_store_is_named(store: Store, labels: Labels) -> None:
    foreign = labels.take(np.array([0, 1]))
    foreign.eeg_id[1] = 42
    with pytest.raises(DataError, match="eeg_id 42 not in the store"):
        WindowSource(store, foreign, torch.device("cpu"))


def test_the_real_recordings_have_windows(tmp_path: Path) -> None:
    root = next(
        (p for up in Path(__file__).resolve().parents if (p := up / "shared" / "real_eeg").is_dir()), None
    )
    if root is None:
        pytest.skip("the real recordings are not on this machine")
    store = prepare(root, store=tmp_path / "store")
    windows = WindowSource(store, unlabelled(store.test), torch.device("cpu")).eeg(torch.arange(24))
    assert windows.isfinite().all()
    assert (windows.std(dim=(1, 2)) > 1.0).all()
