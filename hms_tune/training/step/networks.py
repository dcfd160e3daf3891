"""The networks of a slot: each is made once, and takes the weights at which a fold starts in place.

Making a network, moving it to a GPU, capturing or compiling its step cost as much as some dozens of steps. So
a slot keeps the networks it has made, and the weights at which folds start, which trials of one seed share.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import astuple

import torch
from torch import Tensor, nn

from hms_tune.config.trial import TrialConfig
from hms_tune.models.dropout import set_drop_rates
from hms_tune.models.network import Network, build_network
from hms_tune.training.distributed.layers import share_layers
from hms_tune.training.distributed.ranks import ALONE, ProcessRanks, Ranks
from hms_tune.training.step.random_counters import counter_seed

_KEPT_NETWORKS = 2
_KEPT_STARTS = 12
"""Sets of weights at which folds start, kept in the host's memory."""


def architecture_key(config: TrialConfig) -> str:
    """What a network is built from; trials of equal keys can use one network."""
    model = config.model.model_dump(mode="json")
    model["dropout"], model["drop_path"] = model["dropout"] > 0.0, model["drop_path"] > 0.0
    return json.dumps([model, astuple(config.input.for_model)], sort_keys=True)


def build_for_fold(config: TrialConfig, fold: int) -> Network:
    """A network on the CPU with the weights at which a fold starts; seeded by the fold alone."""
    torch.manual_seed(counter_seed(config.training.seed, "weights", fold))
    return build_network(config.model, config.input.for_model)


class Networks:
    """Networks on a device, lent to one fold after another.

    :meth:`lend` invalidates the network of the same architecture that it returned before.

    Parameters
    ----------
    device : where they are
    ranks : the processes whose networks start alike
    """

    def __init__(self, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.device = device
        self.ranks = ranks
        self._networks: OrderedDict[str, Network] = OrderedDict()
        self._starts: OrderedDict[tuple[str, int, int], dict[str, Tensor]] = OrderedDict()

    def lend(self, config: TrialConfig) -> Network:
        """The network of a configuration, with its drop rates; its weights are whatever was left there."""
        key = architecture_key(config)
        if key not in self._networks:
            network = build_for_fold(config, 0)
            self._keep_start((key, config.training.seed, 0), network)
            network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if isinstance(self.ranks, ProcessRanks):
                share_layers(network, self.ranks)
            self._networks[key] = network
            while len(self._networks) > _KEPT_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        network = self._networks[key]
        set_drop_rates(network, dropout=config.model.dropout, drop_path=config.model.drop_path)
        return network

    def start(self, config: TrialConfig, fold: int, network: nn.Module) -> None:
        """Put the weights at which a fold starts into a lent network."""
        key = (architecture_key(config), config.training.seed, fold)
        if key not in self._starts:
            self._keep_start(key, build_for_fold(config, fold))
        self._starts.move_to_end(key)
        put_weights(network, self._starts[key])
        self.ranks.share_weights(network)

    def _keep_start(self, key: tuple[str, int, int], network: nn.Module) -> None:
        self._starts[key] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        while len(self._starts) > _KEPT_STARTS:
            self._starts.popitem(last=False)


@torch.no_grad()
def put_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights and buffers into a network in place; every name must be there."""
    own = network.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"weights of another network: {sorted(own.keys() ^ weights.keys())[:3]}")
    for name, tensor in own.items():
        tensor.copy_(weights[name], non_blocking=True)
