"""A membership audit of a private model: how much does it remember of the images that it was trained on?

    python examples/membership_audit.py

The model here is trained for so long that it knows half of the digits by heart. A second one stops early.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pydrift

LIMIT = 0.05  # at most this share of the members may be found, at 1 % false positives


def train(x: Tensor, y: Tensor, epochs: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
    return network.eval()


def main() -> None:
    images = pydrift.load_data("digits")
    members = np.sort(np.random.default_rng(0).permutation(len(images))[: len(images) // 2])

    for name, epochs in {"trained for long": 100, "stopped early": 5}.items():
        model = train(images.x[members], images.y[members], epochs)
        result = pydrift.membership_audit(
            model,
            images,  # members and non-members together
            members,  # indices into the images
            attacks=["lira-fixed", "rmia", "loss"],
            shadows=16,
            recipe=pydrift.TrainingRecipe(epochs=epochs),  # shadows are trained as the model was
        )
        print(f"{name}:")
        for attack in result.attacks:
            found = attack.tpr_at_fpr[-1]
            print(f"  {attack.name}: AUC {attack.auc:.3f}, finds {found.tpr:.1%} at {found.fpr:.0%} false positives")
        worst = max(attack.tpr_at_fpr[-1].tpr for attack in result.attacks)
        print(f"  {'too much' if worst > LIMIT else 'acceptable'}: the limit is {LIMIT:.0%}")


if __name__ == "__main__":
    main()
