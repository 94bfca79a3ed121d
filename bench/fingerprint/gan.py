"""Trains a small DCGAN (Radford, Metz, Chintala, ICLR 2016), whose images imitate a data set."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LATENT, _BATCH, _RATE = 64, 64, 2e-4


def dcgan_images(x: Tensor, steps: int, count: int, seed: int) -> Tensor:
    """Trains a generator on x [N, C, H, W]. Returns `count` of its images, float32 [count, C, H, W] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = x.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maker, discriminator = _generator(channels, height, width), _discriminator(channels, height, width)
    for part in (*maker.modules(), *discriminator.modules()):
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0, 0.02, generator=generator)
    networks = (maker, discriminator)
    of_maker, of_discriminator = (torch.optim.Adam(net.parameters(), _RATE, betas=(0.5, 0.999)) for net in networks)

    def images(number: int) -> Tensor:
        return maker(torch.randn(number, _LATENT, generator=generator))[:, :, :height, :width]

    for _ in range(steps):
        real = x[torch.randint(len(x), (_BATCH,), generator=generator)]
        fake = images(_BATCH)
        of_discriminator.zero_grad()
        (F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean()).backward()
        of_discriminator.step()
        of_maker.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        of_maker.step()
    maker.eval()
    with torch.no_grad():
        return torch.cat([images(min(250, count - start)) for start in range(0, count, 250)])


def _generator(channels: int, height: int, width: int) -> nn.Module:
    rows, columns = -(-height // 4), -(-width // 4)
    return nn.Sequential(
        nn.Linear(_LATENT, 64 * rows * columns, bias=False),
        nn.BatchNorm1d(64 * rows * columns),
        nn.ReLU(),
        nn.Unflatten(1, (64, rows, columns)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, channels, 4, 2, 1),
        nn.Sigmoid(),
    )


def _discriminator(channels: int, height: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 1),
    )
