"""A drift audit of your own architecture, with shadows from your own training loop.

    python examples/own_training.py

pydrift never sees how you train. It calls `train(x, y, seed, recipe)` once per shadow. Half of the shadows are trained
by the base's recipe, and half by recipes that depart from it.
"""

from __future__ import annotations

from dataclasses import replace

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


def train(x: Tensor, y: Tensor, seed: int, recipe: pydrift.TrainingRecipe) -> nn.Module:
    """Your own training, by as much of the recipe as it has. pydrift varies the recipe for half of the shadows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network()
        optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate)
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(x)).split(recipe.batch_size):
                optimizer.zero_grad()
                loss = cross_entropy(network(x[batch]), y[batch], label_smoothing=recipe.label_smoothing)
                loss.backward()
                optimizer.step()
    return network.eval()


def main() -> None:
    images = pydrift.load_data("digits")
    first, second = torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).split(len(images) // 2)
    recipe = pydrift.TrainingRecipe(epochs=20, learning_rate=2e-3)
    base = train(images.x[first], images.y[first], 1, recipe)

    auditor = pydrift.DriftAuditor(base, shadows=16, size=len(first), train=train, recipe=recipe).fit(images)

    # The labels 3 and 8 of the last candidate have changed places.
    swapped = pydrift.plant(images, "swap:3,8", seed=0)
    slower = replace(recipe, learning_rate=1.5e-3)
    candidates = {
        "benign": (train(images.x[second], images.y[second], 2, recipe), "same"),
        "by another recipe": (train(images.x[second], images.y[second], 3, slower), None),
        "swapped": (train(swapped.x[second], swapped.y[second], 4, recipe), "same"),
    }
    for name, (candidate, known) in candidates.items():
        result = auditor.compare(candidate, recipe=known)
        drifted = [c.name for c in result.classes if c.verdict == "drift"]
        print(f"{name}: {result.verdict}", *drifted)


if __name__ == "__main__":
    main()
