"""Bytes counted for a training step against bytes of a real one, and what counting costs.

    python benchmarks/memory.py [--batch 8] [--image 128 256] [BACKBONE ...]

The real step runs on the CPU, under the same counter and under autograd's hooks for saved tensors; where
there is a GPU, the allocator's peak is compared as well. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import TrialConfig
from hms_tune.models.network import build_network
from hms_tune.training.memory.footprint import count_step, footprint
from hms_tune.training.memory.measured_ratio import measure

BACKBONES = ("resnet18d", "resnet34d", "efficientnet_b0", "efficientnet_b2")


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that a real forward pass keeps, each storage once, without weights and images."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), images)
    }
    saved: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(images)
    total = sum(size for size, _ in saved.values())
    del logits
    return total


def row(backbone: str, batch: int, image: tuple[int, int]) -> str:
    """One line of the table."""
    model = {"backbone": backbone, "pretrained": False}
    config = TrialConfig.model_validate({"model": model, "input": {"image": image}})
    start = time.perf_counter()
    counted = footprint(config, half=False)
    seconds = time.perf_counter() - start
    network = build_network(config.model, ModelInput(1, image)).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 1, *image).contiguous(memory_format=torch.channels_last)
    real_saved = saved_bytes(network.train(), images)
    real_peak = count_step(network, images).peak
    cells = [
        backbone,
        f"{counted.network / 2**20:.0f}",
        f"{counted.saved_per_sample * batch / 2**20:.1f}",
        f"{real_saved / 2**20:.1f}",
        f"{(counted.step_fixed + counted.step_per_sample * batch) / 2**20:.1f}",
        f"{real_peak / 2**20:.1f}",
        f"{seconds:.2f}",
    ]
    if torch.cuda.is_available():
        cells.append(f"{measure(config, torch.device('cuda')):.2f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, nargs=2, default=(128, 256))
    arguments = parser.parse_args()
    heads = [
        "backbone",
        "network",
        "saved, counted",
        "saved, real",
        "peak, counted",
        "peak, real",
        "counting, s",
    ]
    if torch.cuda.is_available():
        heads.append("allocator / counted")
    print(f"MiB at batch {arguments.batch}, {arguments.image[0]}×{arguments.image[1]}, float32\n")  # noqa: T201
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))  # noqa: T201
    for backbone in arguments.backbones:
        print(row(backbone, arguments.batch, tuple(arguments.image)))  # noqa: T201


if __name__ == "__main__":
    main()
