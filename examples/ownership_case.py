"""An ownership case: is one of these models made of my private images?

    python examples/ownership_case.py

Two suspects: one continues from the victim's weights, the other was trained by somebody else on other images.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pydrift


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(x: Tensor, y: Tensor, seed: int, start: nn.Module | None = None, learning_rate: float = 2e-3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network() if start is None else copy.deepcopy(start)
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
        for _ in range(60):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
    return model.eval()


def main() -> None:
    images = pydrift.load_data("digits")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    private, public, elsewhere = (images.subset(part) for part in order.split([300, 900, len(images) - 1200]))

    victim = train(private.x, private.y, seed=1)
    suspects = {
        "continued": train(elsewhere.x, elsewhere.y, seed=2, start=victim, learning_rate=2e-4),
        "innocent": train(elsewhere.x, elsewhere.y, seed=3),
    }
    # 100 independent benign models are trained on the public images: the smallest p is 1 / 101.
    result = pydrift.ownership_audit(victim, suspects, private, public, recipe=pydrift.TrainingRecipe(epochs=60))
    for suspect in result.suspects:
        print(f"{suspect.name}: {suspect.verdict} (p = {suspect.p:.4f})")


if __name__ == "__main__":
    main()
