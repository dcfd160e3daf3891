"""The memory plans of one slot: made trial by trial, from what its device has at that moment."""

from __future__ import annotations

import logging

import torch

from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import Kind
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import resident_bytes
from hms_tune.machine.json_cache import JsonCache
from hms_tune.machine.memory import MemoryReader
from hms_tune.training.images.cache import Form
from hms_tune.training.memory.measured_ratio import step_ratio
from hms_tune.training.memory.plan import MemoryPlan, plan_memory

_logger = logging.getLogger(__name__)


class MemoryPlanner:
    """Plans trials on one store and device.

    Parameters
    ----------
    store : the prepared competition folder
    device : where trials compute
    share : of the device's memory that this process may plan with
    ratios : what real steps took on this device over what was counted
    memory : asks the device for its free memory
    captured : whether steps may be captured as CUDA graphs
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        *,
        share: float,
        ratios: JsonCache,
        memory: MemoryReader,
        captured: bool,
    ) -> None:
        self._signal_bytes: dict[Kind, int] = {
            "eeg": store.eeg.nbytes,
            "spectrogram": store.spectrogram.nbytes,
        }
        self._device = device
        self._share = share
        self._ratios = ratios
        self._memory = memory
        self._captured = captured
        self._logged: set[tuple[object, ...]] = set()

    def plan(self, config: TrialConfig, *, n_rows: int, kept: Form | None, reusable: int) -> MemoryPlan:
        """Plan a trial. Nothing is allocated for it, but for the small real step that a GPU may take.

        Parameters
        ----------
        config : the trial
        n_rows : rows of its labels
        kept : the form in which its images are cached already
        reusable : bytes of this process that the trial uses again or replaces, signals apart
        """

        def planned(ratio: float) -> MemoryPlan:
            return plan_memory(
                config,
                self._device,
                self._available(reusable),
                captured=self._captured,
                signal_bytes=self._signal_bytes,
                n_rows=n_rows,
                kept=kept,
                ratio=ratio,
            )

        plan = planned(1.0)
        if not plan.fits:  # even the small step that would be measured might not
            return plan
        ratio = step_ratio(config, self._device, self._ratios)
        return plan if ratio == 1.0 else planned(ratio)

    def log(self, plan: MemoryPlan) -> None:
        """Log a plan unless an equal one was logged; trials of several architectures take turns.

        The first on a GPU is logged whole, with why each array lies where it lies. Others differ little, and
        the CPU's memory is seldom what limits a trial: they get a line.
        """
        if plan.choices not in self._logged:
            whole = not self._logged and self._device.type != "cpu"
            self._logged.add(plan.choices)
            _logger.info("%s", plan if whole else plan.in_a_line())

    def _available(self, reusable: int) -> int:
        memory = self._memory(self._device)
        if self._device.type == "cuda":
            reusable += resident_bytes(self._device)
            reusable += torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return min(memory.free + reusable, int(self._share * memory.total))
