"""NeuralFP: the fingerprint of a network is how well autoencoders reconstruct the activations of its layers.

The idea is that of W.-H. Lee, Millman, Desai, Srivatsa, Liu, "Out-of-distribution Detection using Fingerprints of
Neural Networks", ICPR 2020. One autoencoder per layer is trained on the activations of the training images. The
distribution of its reconstruction errors is the fingerprint; an image with an error outside it is an outlier. The
paper's abstract says no more. These parts are pydrift's own:

* A layer is described by the mean and the standard deviation of each channel over space; a vector describes itself.
  The description is whitened, so that directions with little variance count as much as those with much.
* The logarithm of the error is nearly normal. It is compared with held-out images of the same *predicted* class, as z
  in standard deviations. Too small an error counts like too large a one: blank images reconstruct too well.
* The error of the last layer is minus the log probability of the predicted class.
* The score is minus the sum of the squared z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import one_intra_op_thread
from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import log_confidence
from pydrift.fingerprint.features import Features, Needs

MAX_WIDTH = 512  # values of a layer; from more, so many are taken, evenly spaced
RIDGE = 1e-4  # of the mean variance, added to each direction before the division
HELD_OUT = 5  # every fifth image is held out from the autoencoders, for the distribution of the errors
_PEAK_RATE = 4e-3
_MIN_OF_CLASS = 20  # held-out images; a predicted class with fewer gets the distribution of all


@dataclass(frozen=True)
class NeuralFP:
    """squeeze  the middle of an autoencoder has so many times fewer values than its input
    steps    of Adam; the autoencoders of all layers take them together
    batch    images in a step
    seed     of the initial weights and of the order of images
    """

    squeeze: int = 4
    steps: int = 1000
    batch: int = 128
    seed: int = 0
    title = "NeuralFP, an autoencoder per layer (after Lee et al. 2020)"
    needs = Needs(pooled=True, spread=True)

    def __post_init__(self) -> None:
        if min(self.squeeze, self.steps, self.batch) < 1:
            raise UsageError(
                f"NeuralFP: squeeze, steps and batch must be >= 1, got {self.squeeze}, {self.steps} and {self.batch}"
            )

    def fit(self, features: Features, labels: Tensor) -> FittedNeuralFP:
        """The same features, settings and torch give the same bits, with any number of threads."""
        check_fit(self, features, labels)
        held_out = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
        if len(labels) < 2 * HELD_OUT:
            raise UsageError(f"NeuralFP needs at least {2 * HELD_OUT} images, got {len(labels)}")
        with one_intra_op_thread():
            descriptions = _describe_layers(features[~held_out])
            means = [layer.double().mean(dim=0).float() for layer in descriptions]
            whiten = [_whitening(layer) for layer in descriptions]
            white = [(x - mean) @ w for x, mean, w in zip(descriptions, means, whiten, strict=True)]
            parts = self._train(white)
            encoder, encoder_bias, decoder, decoder_bias = (tuple(tensors) for tensors in zip(*parts, strict=True))
            fitted = FittedNeuralFP(
                mean=tuple(means),
                whiten=tuple(whiten),
                encoder=encoder,
                encoder_bias=encoder_bias,
                decoder=decoder,
                decoder_bias=decoder_bias,
                centre=features.logits.new_zeros(features.logits.shape[1], len(parts) + 1),
                spread=features.logits.new_ones(len(parts) + 1),
            )
            return _with_distribution(fitted, features[held_out])

    def _train(self, layers: Sequence[Tensor]) -> list[list[Tensor]]:
        """Weight and bias of the encoder and of the decoder, for each layer [N, D]."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, Phase.AUTOENCODER))
        device = layers[0].device
        parts = []
        for layer in layers:
            inside = layer.shape[1]
            middle = max(1, inside // self.squeeze)
            shapes = ((middle, inside), (middle,), (inside, middle), (inside,))
            bounds = (inside**-0.5, inside**-0.5, middle**-0.5, middle**-0.5)
            parts.append(
                [
                    (torch.rand(shape, generator=generator) * 2 - 1).mul(bound).to(device).requires_grad_(True)
                    for shape, bound in zip(shapes, bounds, strict=True)
                ]
            )
        optimizer = torch.optim.Adam([tensor for part in parts for tensor in part])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=self.steps)
        order = torch.empty(0, dtype=torch.int64)
        size = min(self.batch, len(layers[0]))
        with torch.enable_grad():
            for _ in range(self.steps):
                if len(order) < size:
                    order = torch.randperm(len(layers[0]), generator=generator)
                chosen, order = order[:size].to(device), order[size:]
                batches = [layer[chosen] for layer in layers]
                loss = torch.stack([_error(x, *part).mean() for x, part in zip(batches, parts, strict=True)]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return [[tensor.detach() for tensor in part] for part in parts]


@dataclass(frozen=True, eq=False)
class FittedNeuralFP:
    """The autoencoders and the distribution of their errors.

    mean, whiten           for each layer [D] and [D, D]
    encoder, encoder_bias  for each layer [M, D] and [M]
    decoder, decoder_bias  for each layer [D, M] and [D]
    centre                 float32 [K, layers + 1]: means of the log errors in each predicted class
    spread                 float32 [layers + 1]: standard deviations of the log errors within classes
    """

    mean: tuple[Tensor, ...]
    whiten: tuple[Tensor, ...]
    encoder: tuple[Tensor, ...]
    encoder_bias: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]
    decoder_bias: tuple[Tensor, ...]
    centre: Tensor
    spread: Tensor

    def log_errors(self, features: Features) -> Tensor:
        """[N, layers + 1]: the logarithms of the layers' reconstruction errors and of the last layer's error."""
        errors = []
        for x, mean, whiten, *autoencoder in zip(
            _describe_layers(features), self.mean, self.whiten, self.encoder, self.encoder_bias, self.decoder,
            self.decoder_bias, strict=True,
        ):  # fmt: skip
            errors.append(_error((x - mean) @ whiten, *autoencoder))
        errors.append(-log_confidence(features.logits))
        return torch.stack(errors, dim=1).clamp_min(1e-12).log()

    def deviations(self, features: Features) -> Tensor:
        """[N, layers + 1]: z, how many standard deviations each log error is above the mean of the predicted class."""
        return (self.log_errors(features) - self.centre[features.logits.argmax(dim=1)]) / self.spread

    def score(self, features: Features) -> Tensor:
        """float32 [N]: minus the sum of the squared deviations."""
        return -self.deviations(features).square().sum(dim=1)


def _describe_layers(features: Features) -> list[Tensor]:
    """The description of each layer, [N, D]: means and standard deviations over space."""
    layers = [
        torch.cat((mean, spread), dim=1) if spread.shape[1] else mean
        for mean, spread in zip(features.pooled, features.spread, strict=True)
    ]
    return [layer[:, :: -(-layer.shape[1] // MAX_WIDTH)] for layer in layers]


def _whitening(x: Tensor) -> Tensor:
    """[D, D] of x [N, D]: the principal directions, each divided by its standard deviation."""
    centred = x.double() - x.double().mean(dim=0)
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(x))
    floor = (RIDGE * variance.mean()).clamp_min(1e-12)
    return (directions / (variance.clamp_min(0) + floor).sqrt()).float()


def _error(x: Tensor, encoder: Tensor, encoder_bias: Tensor, decoder: Tensor, decoder_bias: Tensor) -> Tensor:
    """Mean squared reconstruction error [N] of x [N, D]."""
    code = torch.addmm(encoder_bias, x, encoder.T).relu()
    return (torch.addmm(decoder_bias, code, decoder.T) - x).square().mean(dim=1)


def _with_distribution(fitted: FittedNeuralFP, held_out: Features) -> FittedNeuralFP:
    """The detector with centre and spread from images that the autoencoders have not seen."""
    errors = fitted.log_errors(held_out).double()
    predicted = held_out.logits.argmax(dim=1)
    centre = errors.mean(dim=0).repeat(len(fitted.centre), 1)
    for label in range(len(centre)):
        if (predicted == label).sum() >= _MIN_OF_CLASS:
            centre[label] = errors[predicted == label].mean(dim=0)
    spread = (errors - centre[predicted]).std(dim=0, correction=0).clamp_min(1e-6)
    return replace(fitted, centre=centre.float(), spread=spread.float())
