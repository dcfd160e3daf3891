"""What a trial's memory is counted as, and what is planned from it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig, TrialConfig
from hms_tune.errors import MemoryPlanError
from hms_tune.machine.json_cache import JsonCache
from hms_tune.machine.memory import _of_the_container, read_memory
from hms_tune.models.frozen_prefix import cut
from hms_tune.models.network import Network, build_network
from hms_tune.training.memory.feature_bytes import feature_bytes
from hms_tune.training.memory.footprint import Footprint, LiveBytes, count_step, footprint
from hms_tune.training.memory.measured_ratio import step_ratio
from hms_tune.training.memory.plan import DeviceMemory, MemoryPlan, plan_memory

IMAGE = (64, 128)
BATCH = 6
CPU = torch.device("cpu")
MIB = 2**20


def config(
    backbone: str = "test_resnet", *, frozen: int = 0, pooling: str = "avg", **parts: object
) -> TrialConfig:
    model = {"backbone": backbone, "pretrained": False, "frozen_layers": frozen, "pooling": pooling}
    return TrialConfig.model_validate({"model": model, "input": {"image": IMAGE}} | parts)


def real_network(model: ModelConfig) -> tuple[Network, torch.Tensor]:
    network = build_network(model, ModelInput(1, IMAGE)).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 1, *IMAGE).contiguous(memory_format=torch.channels_last)
    return network.train(), images


def really_saved(network: nn.Module, images: torch.Tensor, *, half: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass: each storage once, no weights, no images."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), images)
    }
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    precision = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), precision:
        kept = network(images)
    total = sum(size for size, _ in saved.values())
    del kept
    return total


@pytest.mark.parametrize("frozen", [0, 3])
@pytest.mark.parametrize("backbone", ["resnet18d", "test_efficientnet"])
def test_saved_bytes_are_those_of_a_real_forward_pass_within_half_a_percent(
    backbone: str, frozen: int
) -> None:
    trial = config(backbone, frozen=frozen)
    counted = footprint(trial, half=False).saved_per_sample
    real = really_saved(*real_network(trial.model), half=False) / BATCH
    # What does not grow with the batch (statistics of batch normalization) is in the real bytes alone.
    assert counted == pytest.approx(real, rel=0.005)


@pytest.mark.parametrize("backbone", ["resnet18d", "test_efficientnet"])
def test_saved_bytes_under_bfloat16_are_those_of_autocast_within_five_percent(backbone: str) -> None:
    trial = config(backbone)
    counted = footprint(trial, half=True)
    network, images = real_network(trial.model)
    casts = sum(
        2 * each.weight.numel() for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)
    )
    real = really_saved(network, images, half=True) - casts
    assert counted.saved_per_sample == pytest.approx(real / BATCH, rel=0.05)
    assert counted.step_fixed >= casts


@pytest.mark.parametrize("backbone", ["resnet18d", "test_efficientnet"])
def test_the_most_alive_in_a_step_is_that_of_a_real_step(backbone: str) -> None:
    trial = config(backbone)
    counted = footprint(trial, half=False)
    real = count_step(*real_network(trial.model))
    assert counted.step_fixed + BATCH * counted.step_per_sample == pytest.approx(real.peak, rel=0.02)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("asked", [[True, True, True], [True, False, False]])
@pytest.mark.parametrize("of_channels", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_images", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_batch_normalization_is_counted_as_what_torch_makes_of_it(
    shape: tuple[int, ...],
    of_images: torch.dtype,
    of_channels: torch.dtype | None,
    asked: list[bool],
    training: bool,
) -> None:
    aten = torch.ops.aten
    images = torch.empty(shape, dtype=of_images, device="meta")
    if len(shape) == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    weight = None if of_channels is None else torch.empty(3, dtype=of_channels, device="meta")
    mean, spread = torch.empty(3, device="meta"), torch.empty(3, device="meta")

    def made() -> list[object]:
        forward = aten.native_batch_norm.default(images, weight, weight, mean, spread, training, 0.1, 1e-5)
        saved = (*forward[1:], training, 1e-5, asked)
        backward = aten.native_batch_norm_backward.default(forward[0], images, weight, mean, spread, *saved)
        return [
            None if each is None else (each.shape, each.dtype, each.stride())
            for each in (*forward, *backward)
        ]

    expected = made()
    with LiveBytes():
        assert made() == expected


def test_learnt_pooling_is_counted_too() -> None:
    plain, learnt = (footprint(config(pooling=pooling), half=False) for pooling in ("avg", "gem"))
    assert learnt.weights == plain.weights + 4
    assert learnt.saved_per_sample > plain.saved_per_sample


@pytest.mark.parametrize(
    ("training", "moments", "averages"),
    [
        ({"optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": False}}, 0, 0),
        ({"optimizer": "sgd"}, 1, 0),
        ({"optimizer": "adamw", "ema_decay": 0.9}, 2, 1),
    ],
)
def test_optimizer_and_average_are_what_torch_keeps(
    training: dict[str, object], moments: int, averages: int
) -> None:
    counted = footprint(config(training=training), half=False)
    network, _ = real_network(config().model)
    trained = sum(parameter.nbytes for parameter in network.parameters())
    whole = trained + sum(buffer.nbytes for buffer in network.buffers())
    assert counted == Footprint(
        weights=whole,
        gradients=trained,
        optimizer=moments * trained,
        average=averages * whole,
        saved_per_sample=counted.saved_per_sample,
        step_per_sample=counted.step_per_sample,
        step_fixed=counted.step_fixed,
        predict_per_sample=counted.predict_per_sample,
    )


def test_frozen_layers_keep_nothing_for_the_backward_pass() -> None:
    whole, part = (footprint(config("resnet18d", frozen=frozen), half=False) for frozen in (0, 4))
    assert part.gradients < whole.gradients
    assert part.saved_per_sample < 0.5 * whole.saved_per_sample


def test_counting_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    footprint(config("test_convnext"), half=False)
    assert torch.equal(torch.rand(1), expected)


def test_bytes_alive_are_counted_once_and_until_they_go() -> None:
    live = LiveBytes()
    with live:
        first = torch.zeros(100)
        view = first[10:]
        second = first + 1.0
        del first, second
        assert (live.now, live.peak) == (400, 800)
        del view
    assert live.now == 0


def plan(
    available: int,
    trial: TrialConfig | None = None,
    *,
    device: str = "cpu",
    rows: int = 1000,
    captured: bool = False,
    **more: object,
) -> MemoryPlan:
    return plan_memory(
        trial or config(),
        DeviceMemory(torch.device(device), available, captured),
        signal_bytes={"eeg": 300 * MIB, "spectrogram": 100 * MIB},
        n_rows=rows,
        **more,  # type: ignore[arg-type]
    )


def test_images_take_the_widest_form_that_fits_and_keep_it() -> None:
    whole = 1000 * IMAGE[0] * IMAGE[1]
    required = plan(2**40).network + plan(2**40).step
    forms = [plan(round((required + 4 * whole * part) / 0.95) + 4096).images.form for part in (4, 2, 1, 0.5)]
    assert forms == ["float32", "float16", "int8", None]
    tight = round((required + 4.5 * whole) / 0.95)
    assert plan(tight).images.form == "int8"
    assert plan(tight, kept="float32").images.form == "float32"


def test_raw_traces_are_never_kept_in_eight_bits() -> None:
    raw = config(input={"eeg": {"name": "raw"}, "kaggle": None, "image": IMAGE})
    whole = 1000 * IMAGE[0] * IMAGE[1]
    required = plan(2**40, raw).network + plan(2**40, raw).step
    assert plan(round((required + 4 * whole) / 0.95) + 4096, raw).images.form is None


def test_a_gpu_keeps_first_what_every_step_reads() -> None:
    both = {"kaggle": {}, "image": IMAGE}
    steady = config(input=both)
    varied = config(input=both, augmentation={"left_right_swap": 0.5})
    ample = plan(2**40, varied, device="cuda")
    room = ample.network + ample.step
    memory = round((room + 512 * MIB + 400 * MIB + 10 * MIB) / 0.95)
    still, moving = (
        plan(memory, steady, device="cuda", rows=10_000),
        plan(memory, varied, device="cuda", rows=10_000),
    )
    assert (still.images.form, still.resident) == ("float32", {"spectrogram"})
    assert (moving.images.form, moving.resident) == (None, {"eeg", "spectrogram"})
    assert [signals.placement for signals in still.signals] == ["streamed", "resident"]
    assert {signals.placement for signals in plan(memory).signals} == {"mapped"}


def test_a_trial_that_cannot_fit_is_refused_with_the_largest_batch_that_can() -> None:
    room = plan(2**40)
    small = config(training={"batch_size": 64, "test_batch_size": 16})
    tight = plan(round(1.1 * (room.network + plan(2**40, small).step / 4)), small)
    assert not tight.fits
    assert 1 <= tight.largest_batch_size < 64
    with pytest.raises(
        MemoryPlanError, match=f"largest batch size that fits is {tight.largest_batch_size}"
    ) as error:
        tight.require()
    assert error.value.excess > 0
    fitting = small.model_copy(
        update={"training": small.training.model_copy(update={"batch_size": tight.largest_batch_size})}
    )
    assert plan(tight.available, fitting).fits
    beyond = fitting.model_copy(
        update={"training": fitting.training.model_copy(update={"batch_size": tight.largest_batch_size + 1})}
    )
    assert not plan(tight.available, beyond).fits
    with pytest.raises(MemoryPlanError, match="No batch size fits"):
        plan(MIB).require()


@pytest.mark.parametrize("backbone", ["resnet18d", "test_efficientnet"])
def test_features_of_frozen_layers_are_counted_as_they_are(backbone: str) -> None:
    trial = config(backbone, frozen=2)
    network, images = real_network(trial.model)
    parts = cut(network)
    assert parts is not None
    real = sum(feature.nbytes for feature in parts[0](images)) / BATCH
    assert feature_bytes(trial, half=False) == real
    assert feature_bytes(trial, half=True) == real / 2


def test_features_are_kept_where_they_fit_beside_all_else() -> None:
    trial = config(frozen=2)
    ample = plan(2**40, trial)
    assert ample.features is not None
    assert ample.features.nbytes == 1000 * (feature_bytes(trial, half=False) or 0)
    assert "  features: " in str(ample)
    assert ", kept: the frozen layers see each image once" in str(ample)
    room = round((ample.required - ample.reserve + 4 * ample.features.nbytes) / 0.95)
    fitting, tight = plan(room + 4096, trial), plan(room - 4096, trial)
    assert fitting.features is not None
    assert tight.features is not None
    assert (fitting.features.kept, tight.features.kept) == (True, False)
    assert tight.features.held == 0
    assert ", not kept: " in str(tight)
    # What they take, images and signals on a GPU have no more.
    assert fitting.images.most == pytest.approx(0.25 * 3 * fitting.features.nbytes, rel=0.01)


def test_no_features_are_planned_where_nothing_is_frozen_or_images_vary() -> None:
    assert plan(2**40, config()).features is None
    assert plan(2**40, config(frozen=2, augmentation={"time_mask": 0.2})).features is None


def test_a_plan_reads_as_sentences() -> None:
    lines = str(plan(2**40)).splitlines()
    assert re.fullmatch(r"memory on cpu: the trial needs .+ GiB of the .+ GiB that there are", lines[0])
    assert lines[2].endswith("the largest that fits is 4096 or more")
    assert plan(2**40).in_a_line() == f"{lines[0]} at batch size 32; the largest that fits is 4096 or more"
    assert lines[4] == "  eeg: 300.0 MiB, mapped: the CPU reads the store where it lies"
    assert lines[-1] == "  images: 31.2 MiB as float32: bit for bit as they are made"


def test_a_step_on_the_cpu_takes_what_was_counted() -> None:
    assert step_ratio(config(), CPU, JsonCache()) == 1.0


def test_a_ratio_enlarges_the_step_alone() -> None:
    usual, more = plan(2**40), plan(2**40, ratio=50.0)
    assert more.network == usual.network
    assert more.step > usual.step
    assert more.largest_batch_size <= usual.largest_batch_size


def test_a_captured_step_shares_its_memory_with_nothing_else() -> None:
    trial = config(training={"batch_size": 16, "test_batch_size": 64})
    usual, captured = plan(2**40, trial), plan(2**40, trial, captured=True)
    small = config(training={"batch_size": 1, "test_batch_size": 64})
    beside = plan(2**40, small).step  # with one row to learn from, validation needs the most
    learnt = captured.step - beside
    assert usual.step == max(learnt, beside)
    assert learnt > 0
    assert captured.largest_batch_size <= usual.largest_batch_size


def test_a_containers_limit_is_read_without_its_page_cache(tmp_path: Path) -> None:
    assert _of_the_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("800\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\nactive_file 100\n")
    memory = _of_the_container(tmp_path)
    assert memory is not None
    assert (memory.free, memory.total) == (500, 1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_the_container(tmp_path) is None
    assert 0 < read_memory(CPU).free <= read_memory(CPU).total


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_on_a_gpu_takes_about_what_was_counted(tmp_path: Path) -> None:
    trial = config("resnet18d", training={"precision": "float32"})
    ratio = step_ratio(trial, torch.device("cuda", 0), JsonCache(tmp_path / "memory.json"))
    assert 1.0 <= ratio < 3.0
    assert list(json.loads((tmp_path / "memory.json").read_text()).values()) == [ratio]
