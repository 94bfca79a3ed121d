"""A drift audit of your own architecture, with shadows from your own training loop.

    python examples/own_training.py

pydrift never sees how you train. It calls `train(x, y, seed)` once per shadow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pydrift


class Network(nn.Module):
    """Maps images [N, 1, 8, 8] in [0, 1] to logits [N, 10]. The normalisation is part of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - 0.3) / 0.4)


def train(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Your own training. It draws its recipe from the seed, because pydrift cannot vary what it does not know."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network()
        learning_rate = 2e-3 * 2 ** float(torch.rand(()) * 2 - 1)
        smoothing = 0.1 * float(torch.rand(()))
        optimizer = torch.optim.AdamW(network.parameters(), learning_rate)
        for _ in range(20):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(network(x[batch]), y[batch], label_smoothing=smoothing).backward()
                optimizer.step()
    return network.eval()


def main() -> None:
    images = pydrift.load_data("digits")
    first, second = torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).split(len(images) // 2)
    base = train(images.x[first], images.y[first], seed=1)

    auditor = pydrift.DriftAuditor(base, shadows=16, size=len(first), train=train).fit(images)

    # The labels 3 and 8 of the second candidate have changed places.
    swapped = pydrift.plant(images, "swap:3,8", seed=0)
    candidates = {
        "benign": train(images.x[second], images.y[second], seed=2),
        "swapped": train(swapped.x[second], swapped.y[second], seed=3),
    }
    for name, candidate in candidates.items():
        result = auditor.compare(candidate)
        drifted = [c.name for c in result.classes if c.verdict == "drift"]
        print(f"{name}: {result.verdict}", *drifted)


if __name__ == "__main__":
    main()
