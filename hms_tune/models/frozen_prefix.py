"""A network cut where its frozen layers end.

With the first layers frozen and in eval mode, what they make of an image is always the same. Cut off, they
run once for each image instead of once for each epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from hms_tune.models.dropout import Dropping
from hms_tune.models.layers import divide, is_within
from hms_tune.models.network import Network


class FrozenPrefix(nn.Module):
    """The frozen beginning of a network: images to the features at the cut, without gradients.

    Parameters
    ----------
    graph : the layers before the cut
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """From (batch, channels, height, width) to the tensors that cross the cut, batch first."""
        features: tuple[Tensor, ...] = self.graph(images)
        return features


class TrainedRest(nn.Module):
    """What follows the cut: features to logits. It holds the network's own modules, not copies.

    Parameters
    ----------
    graph : the backbone's layers after the cut
    network : the whole network
    """

    def __init__(self, graph: fx.GraphModule, network: Network) -> None:
        super().__init__()
        self.graph = graph
        self.features = network.features
        self.head = network.head

    def forward(self, *features: Tensor) -> Tensor:
        """From what the prefix gave to (batch, n_classes)."""
        logits: Tensor = self.head(self.features(self.graph(*features)))
        return logits


def cut(network: Network) -> tuple[FrozenPrefix, TrainedRest] | None:
    """Cut a network behind its frozen layers; None where there is no such cut.

    There is none where nothing is frozen, where its course cannot be traced, or where the backbone does not
    see the image as it is.

    Both parts share the modules of the network, so that they follow its weights. The cut is where a network
    in training would be cut, whichever mode this one is in: a moving average, which never trains, takes the
    features of its network's prefix.
    """
    if network.sees is not None or all(each.requires_grad for each in network.backbone.parameters()):
        return None
    was_training = network.training
    network.train()
    try:
        return _cut(network)
    finally:
        network.train(was_training)


def _cut(network: Network) -> tuple[FrozenPrefix, TrainedRest] | None:
    """Cut a network in training mode."""
    try:
        graph = _BlockTracer(network.backbone).trace(network.backbone)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError):
        return None
    fixed = _fixed_nodes(graph, network.backbone)
    crossing = [node for node in fixed if any(user not in fixed for user in node.users)]
    if all(node.op == "placeholder" for node in crossing) or graph.output_node() in fixed:
        return None
    before = fx.GraphModule(network.backbone, _before(graph, fixed, crossing))
    after = fx.GraphModule(network.backbone, _after(graph, fixed, crossing))
    return FrozenPrefix(before), TrainedRest(after, network)


class _BlockTracer(fx.Tracer):
    """Follows a backbone from block to block; what happens inside of one stays there."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self._blocks = [name for group in divide(backbone) for name in group.modules]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or any(
            is_within(module_qualified_name, block) for block in self._blocks
        )


def _fixed_nodes(graph: fx.Graph, backbone: nn.Module) -> dict[fx.Node, None]:
    """The nodes whose value depends on the images and on frozen layers alone, in order."""
    fixed: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "output" or not all(source in fixed for source in node.all_input_nodes):
            continue
        if node.op == "get_attr":
            continue
        if node.op == "call_module" and not _is_frozen(backbone.get_submodule(str(node.target))):
            continue
        fixed[node] = None
    return fixed


def _is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained, and nothing behaves otherwise in training."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        return False
    if not module.training:
        return True
    random = any(isinstance(each, (_DropoutNd, DropPath, Dropping)) for each in module.modules())
    return not random and not any(True for _ in module.buffers())


def _before(graph: fx.Graph, fixed: Iterable[fx.Node], crossing: list[fx.Node]) -> fx.Graph:
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in fixed:
        copies[node] = part.node_copy(node, lambda source: copies[source])
    part.output(tuple(copies[node] for node in crossing))
    return part


def _after(graph: fx.Graph, fixed: dict[fx.Node, None], crossing: list[fx.Node]) -> fx.Graph:
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for number, node in enumerate(crossing):
        copies[node] = part.placeholder(f"feature_{number}")
    for node in graph.nodes:
        if node in fixed:
            continue
        if node.op == "output":
            value: Any = fx.map_arg(node.args[0], lambda source: copies[source])
            part.output(value)
        else:
            copies[node] = part.node_copy(node, lambda source: copies[source])
    return part
