import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import image
from typer.testing import CliRunner, Result

from hms_tune.cli.data import app
from hms_tune.data.schema import CLASSES, EEG_COLUMNS, VOTE_COLUMNS
from hms_tune.errors import DataError
from hms_tune.reports.figures.example import load_example
from hms_tune.reports.figures.style import png
from hms_tune.reports.figures.traces import montage, region_power, sensitivity
from hms_tune.reports.figures.window import View, labelled_figure


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("seeing") / "hms", patients=6)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def with_channel(root: Path, eeg_id: int, **channels: np.ndarray) -> None:
    path = root / "test_eegs" / f"{eeg_id}.parquet"
    table = pq.read_table(path)
    for name, values in channels.items():
        table = table.set_column(EEG_COLUMNS.index(name), name, pa.array(values.astype(np.float32)))
    pq.write_table(table, path)


def test_the_middle_labelled_window_is_shown_with_its_votes(root: Path) -> None:
    example = load_example(root, 1001)
    assert (example.patient_id, example.split, example.offset_seconds) == (10, "train", 10.0)
    assert example.labelled_offsets == (0.0, 10.0)
    assert example.votes is not None
    assert example.votes.tolist() == [0, 3, 12, 0, 0, 0]
    assert example.consensus == "GPD"
    assert example.spectrogram is not None
    assert example.spectrogram.shape == (400, 300)
    assert np.isnan(example.spectrogram).all(axis=0).nonzero()[0].tolist() == [15, 16, 17, 18]


def test_an_offset_that_nobody_labelled_is_shown_without_votes(root: Path) -> None:
    example = load_example(root, 1001, offset=4.0)
    assert (example.offset_seconds, example.votes) == (4.0, None)


def test_a_test_recording_has_neither_votes_nor_offsets(root: Path) -> None:
    example = load_example(root, 3000)
    assert (example.split, example.votes, example.labelled_offsets) == ("test", None, ())


@pytest.mark.parametrize(
    ("eeg_id", "offset", "message"),
    [
        (7, None, r"no table names eeg_id 7\. train\.csv begins with 1000, 1001, 1002"),
        (
            1001,
            10.5,
            r"the 50 s from 10\.5 s do not lie in the recording of 60 s\. Name an --offset from 0 to 10",
        ),
        (1001, -1.0, r"the 50 s from -1 s do not lie"),
    ],
)
def test_a_window_that_is_not_there_is_one_clear_line(
    root: Path, eeg_id: int, offset: float | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_example(root, eeg_id, offset=offset)


def test_the_montage_has_the_bipolar_chains_in_order_and_ekg_last(root: Path) -> None:
    traces = montage(load_example(root, 1001))
    assert [trace.name for trace in traces[:4]] == ["Fp1–F7", "F7–T3", "T3–T5", "T5–O1"]
    chains = [(chain, 4) for chain in ("LL", "RL", "LP", "RP")] + [("midline", 2), ("EKG", 1)]
    assert [trace.chain for trace in traces] == [chain for chain, lines in chains for _ in range(lines)]
    # rows 2000 to 2050 of the file are NaN; the window starts with row 2000
    assert np.isnan(traces[0].values).nonzero()[0].tolist() == list(range(50))


def test_a_line_is_the_filtered_difference_of_its_electrodes(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), test_recordings=1, nan_gap=False)
    seconds = np.arange(10_000) / 200
    rhythm, mains = 40 * np.sin(2 * np.pi * 2 * seconds), 300 * np.sin(2 * np.pi * 60 * seconds)
    with_channel(
        root, 3000, Fp1=rhythm + mains + 900, F7=-rhythm + mains, T3=-rhythm + mains, Fz=5_000 * rhythm
    )
    by_name = {trace.name: trace for trace in montage(load_example(root, 3000))}
    middle = slice(1000, 9000)
    np.testing.assert_allclose(by_name["Fp1–F7"].values[middle], 2 * rhythm[middle], atol=1.0)
    assert by_name["F7–T3"].remark == "flat"
    assert by_name["Fz–Cz"].remark == "mV"
    assert by_name["Fp1–F7"].remark == ""


def test_the_scale_follows_the_amplitude_of_the_window(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), test_recordings=1)
    before = sensitivity(montage(load_example(root, 3000)))
    values = pq.read_table(root / "test_eegs" / "3000.parquet").to_pandas()
    with_channel(root, 3000, **{name: values[name].to_numpy() * 4 for name in EEG_COLUMNS})
    assert 3 <= sensitivity(montage(load_example(root, 3000))) / before <= 5


def test_a_rhythm_is_bright_at_its_frequency_in_its_region_alone(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), test_recordings=1, nan_gap=False)
    seconds = np.arange(10_000) / 200
    with_channel(root, 3000, T3=500 * np.sin(2 * np.pi * 6 * seconds))
    times, frequencies, power = region_power(montage(load_example(root, 3000)))
    assert power.shape == (4, len(frequencies), len(times))
    assert frequencies[power[0].mean(axis=1).argmax()] == pytest.approx(6, abs=0.6)
    assert power[0].max() > 50 * power[1:].max()


def test_equal_windows_give_equal_pictures_of_the_size_asked_for(root: Path) -> None:
    view = View.of(load_example(root, 1001))
    first, again = png(labelled_figure(view), dpi=50), png(labelled_figure(view), dpi=50)
    assert first == again
    pixels = image.imread(io.BytesIO(first), format="png")
    assert pixels.shape[:2] == (340, 650)
    assert 0.01 < np.mean(pixels[..., :3].min(axis=2) < 0.9) < 0.5  # neither empty nor full of ink


def test_show_writes_a_picture_and_a_page_that_needs_nothing_beside_it(root: Path, tmp_path: Path) -> None:
    picture, page = tmp_path / "x.png", tmp_path / "pages" / "x.html"
    done = run("show", str(root), "1001", "--out", str(picture), "--html", str(page))
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(picture), str(page)]
    assert image.imread(picture).shape[:2] == (2200, 1870)
    text = page.read_text()
    assert "EEG 1001: GPD, 12 of 15 votes" in text
    assert "Where to look first" in text
    assert "Other labelled windows start at 0 s." in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_show_without_a_place_to_write_to_is_wrong_use(root: Path) -> None:
    done = run("show", str(root), "1001")
    assert done.exception is not None
    assert str(done.exception).startswith("nothing to write. Name a picture with --out x.png")


def test_recordings_without_spectrograms_or_votes_can_be_shown(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), spectrograms=False)
    page = tmp_path / "x.html"
    assert run("show", str(root), "3000", "--html", str(page)).exit_code == 0
    assert "votes" not in page.read_text().split("</style>")[1].split("data:image")[0]
    report = tmp_path / "report.html"
    assert run("report", str(root), "--out", str(report)).exit_code == 0
    assert "EEG 3001" in report.read_text()


def test_the_report_shows_distributions_examples_and_quality_on_one_page(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root, out = competition_writer(tmp_path / "hms", patients=6), tmp_path / "report.html"
    table = pd.read_csv(root / "train.csv")
    for row, votes in enumerate(
        [(12, 1, 0, 0, 0, 0), (0, 6, 0, 0, 0, 7), (0, 0, 6, 6, 0, 0), (0, 0, 0, 0, 3, 0)]
    ):
        table.loc[4 * row, list(VOTE_COLUMNS)] = votes
        table.loc[4 * row, "expert_consensus"] = CLASSES[int(np.argmax(votes))]
    table.to_csv(root / "train.csv", index=False)
    with_channel(root, 3000, Fp1=np.zeros(10_000))
    done = run("report", str(root), "--out", str(out))
    assert done.exit_code == 0, done.output
    text = out.read_text()
    for heading in ("How it is spread", "What the classes look like", "Quality", "Where to look first"):
        assert f"<h2>{heading}</h2>" in text
    shown = re.findall(r"<h3>(\w+: EEG [^<]*)</h3>", text)
    assert shown == [
        "idealized: EEG 1000: Seizure, 12 of 13 votes",
        "proto: EEG 1002: Other, 7 of 13 votes",
        "edge: EEG 1004: GPD, 6 of 12 votes",
        "idealized: EEG 1006: GRDA, 3 of 3 votes",
    ]
    assert "test_eegs/3000.parquet, Fp1: the channel is flat" in text
    assert text.count("<svg") >= 6
    assert not re.search(r'(?:src|href)="(?!data:|#)', text.replace("http://www.w3.org", ""))


def test_a_folder_with_an_error_gets_no_report(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    (root / "train_eegs" / "1000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"1000\.parquet: the file is empty"):
        run_raising("report", str(root), "--out", str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def run_raising(*arguments: str) -> None:
    CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_folds_are_listed_with_their_patients_and_vote_shares(root: Path, tmp_path: Path) -> None:
    done = run("folds", str(root), "--json")
    report = json.loads(done.stdout)
    assert [fold["fold"] for fold in report["folds"]] == [0, 1, 2, 3, 4]
    assert sum(fold["patients"] for fold in report["folds"]) == 5
    assert report["held_out"]["patients"] == 1
    rows = sum(fold["rows"] for fold in report["folds"]) + report["held_out"]["rows"]
    assert rows == pd.read_csv(root / "train.csv")["eeg_id"].nunique() == 12
    study = tmp_path / "own.yaml"
    study.write_text("study: own\ndata: {folds: {low: 2, high: 3}, fold_repeats: 2, holdout: 0.0}\n")
    lines = run("folds", str(root), "--study", str(study)).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
