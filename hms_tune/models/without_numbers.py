"""Networks on the meta device: their shapes and names, without numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(
    {
        *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
        *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
    }
)
"""What networks draw their first weights with. Others may draw: it takes longer, and nothing else."""


@contextmanager
def without_numbers() -> Iterator[None]:
    """Build what is built in the block on the meta device; the caller's random numbers are left untouched.

    First weights are not drawn. On the meta device that draws nothing anyway, yet it can take most of the
    time.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves tensors of the meta device as they are where numbers would be drawn into them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
