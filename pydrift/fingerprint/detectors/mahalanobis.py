"""The Mahalanobis distance to the nearest class mean.

One covariance serves all classes; the activations are those of the last layer or of every layer. The covariance is
inverted once, as a whitening matrix W with W^T W = covariance^-1. So the distances of N images to K classes are those
of N + K whitened points: [N, K], never N x N. The paper combines the layers by a regression on outliers, and moves the
images by steps tuned on outliers. Here the scores of the layers are standardised on the training images and summed.

Source: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", NeurIPS 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs

RIDGE = 1e-4  # of the mean variance, added to every direction: units that are always 0 have none


@dataclass(frozen=True)
class Mahalanobis:
    """every_layer  an ensemble over the pooled activations of all layers, instead of the penultimate ones"""

    every_layer: bool = False

    @property
    def title(self) -> str:
        return f"Mahalanobis, {'all layers' if self.every_layer else 'last layer'} (Lee et al. 2018)"

    @property
    def needs(self) -> Needs:
        return Needs(pooled=True) if self.every_layer else Needs(penultimate=True)

    def fit(self, features: Features, labels: Tensor) -> FittedMahalanobis:
        check_fit(self, features, labels)
        layers = _layers(features, self.every_layer)
        parts = [class_gaussians(layer, labels) for layer in layers]
        scores = torch.stack([-nearest_distance(layer, *part) for layer, part in zip(layers, parts, strict=True)])
        spread = scores.double().std(dim=1, correction=0).clamp_min(1e-12)
        return FittedMahalanobis(
            int(self.every_layer),
            tuple(whiten for whiten, _ in parts),
            tuple(means for _, means in parts),
            scores.double().mean(dim=1).float(),
            spread.float(),
        )


@dataclass(frozen=True, eq=False)
class FittedMahalanobis:
    """The class means and the covariance.

    every_layer     1 for the ensemble, else 0
    whiten          for each layer [D, D]
    means           for each layer [K, D], whitened
    centre, spread  float32 [layers]: mean and standard deviation of the training images' scores
    """

    every_layer: int
    whiten: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    centre: Tensor
    spread: Tensor

    def score(self, features: Features) -> Tensor:
        total = torch.zeros(len(features), device=features.logits.device)
        for i, layer in enumerate(_layers(features, bool(self.every_layer))):
            total += (-nearest_distance(layer, self.whiten[i], self.means[i]) - self.centre[i]) / self.spread[i]
        return total


def _layers(features: Features, every_layer: bool) -> tuple[Tensor, ...]:
    if every_layer:
        return features.pooled
    assert features.penultimate is not None
    return (features.penultimate,)


def class_gaussians(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The whitening matrix [D, D] of the shared covariance, and the whitened means [P, D] of the P classes present.

    From x float32 [N, D] and labels int64 [N]. Computed in float64. A class without an image has no mean.
    """
    values = x.double()
    present = labels.unique()
    means = torch.stack([values[labels == label].mean(dim=0) for label in present])
    centred = values - means[torch.searchsorted(present, labels)]
    covariance = centred.T @ centred / len(values)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    covariance.diagonal().add_(ridge)
    whiten = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), torch.eye(len(covariance), dtype=torch.float64, device=x.device), upper=False
    )
    return whiten.float(), (means @ whiten.T).float()


def nearest_distance(x: Tensor, whiten: Tensor, means: Tensor) -> Tensor:
    """The squared distance [N] of each row of x [N, D] to the nearest of the whitened means [K, D]."""
    distance = torch.cdist(
        x @ whiten.T, means, compute_mode="donot_use_mm_for_euclid_dist"
    )  # differences, not cancelled
    return distance.square().amin(dim=1)
