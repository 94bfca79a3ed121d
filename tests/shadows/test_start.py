"""Fresh starts: every parameter that learns is set anew, or refused by name."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pydrift.core.errors import UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.data import LabelledImages
from pydrift.models.intake import as_audited_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import reinitialise, train_shadows
from pydrift.shadows.start import fresh_start


def trained_chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Tokens(nn.Module):
    """A parameter of its own that only `_init_weights` sets."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((4,), 9.0))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) + self.token)


class AsTransformers(Tokens):
    """Every part goes through `_init_weights`, but for those with a flag, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.head._is_hf_initialized = True

    def _init_weights(self, module: nn.Module) -> None:
        if getattr(module, "_is_hf_initialized", False):
            return
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Tokens):
            nn.init.normal_(module.token, std=0.02)


class WithoutArgument(Tokens):
    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.token, std=0.02)


@pytest.mark.parametrize("kind", [AsTransformers, WithoutArgument])
def test_init_weights_sets_what_reset_parameters_does_not(kind: Callable[[], Tokens]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(kind())
    before = tensors_digest(module.state_dict())
    first, again, other = (reinitialise(module, seed) for seed in (1, 1, 2))
    digests = [tensors_digest(one.state_dict()) for one in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert tensors_digest(module.state_dict()) == before
    assert float(first[0].token.detach().abs().max()) < 1
    if kind is AsTransformers:
        assert float(first[0].head.weight.detach().abs().max()) < 0.2
        assert not first[0].head.bias.any()


def test_attention_of_torch_has_a_fresh_start() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    fresh = reinitialise(layer, 1)
    assert not torch.equal(fresh.self_attn.in_proj_weight, layer.self_attn.in_proj_weight)
    assert not fresh.self_attn.out_proj.bias.any()


@pytest.mark.parametrize(
    ("normalise", "name"),
    [
        (nn.utils.weight_norm, "1.weight_g"),
        (nn.utils.parametrizations.weight_norm, "1.parametrizations.weight.original0"),
        (nn.utils.parametrizations.spectral_norm, "1.parametrizations.weight.original"),
    ],
)
def test_parameters_that_a_reset_leaves_are_refused(normalise: Callable[[nn.Module], object], name: str) -> None:
    module = trained_chain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normalise(module[1])
    with pytest.raises(UsageError, match=rf"^the base's parameter {name} keeps its value .*; pass init="):
        reinitialise(module, 0)


def test_frozen_parameters_stay_and_the_others_start_fresh() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    module(torch.rand(9, 1, 2, 2))
    frozen = frozenset({"0.weight", "0.bias", "1.weight", "1.bias"})
    fresh = reinitialise(module, 1, frozen)
    same = {name for name, tensor in module.state_dict().items() if torch.equal(tensor, fresh.state_dict()[name])}
    assert same == frozen | {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad} == frozen


@pytest.mark.parametrize("update_mode", ["retrain", "finetune"])
def test_shadows_keep_a_frozen_backbone(update_mode: str) -> None:
    module = trained_chain()
    module[1].requires_grad_(False)
    x, y = torch.rand(60, 1, 2, 2), torch.arange(60) % 3
    images = LabelledImages(x, y, ("a", "b", "c"), "a test")
    bank = train_shadows(module, images, 2, update_mode=update_mode, recipe=TrainingRecipe(epochs=1))
    for shadow in bank.models():
        assert torch.equal(shadow[1].weight, module[1].weight)
        assert not torch.equal(shadow[3].weight, module[3].weight)


def test_a_fresh_start_of_the_user() -> None:
    module = trained_chain()

    def pretrained(seed: int) -> nn.Module:
        made = trained_chain().half()
        nn.init.constant_(made[3].bias, seed)
        return made

    fresh = fresh_start(pretrained, 3, module)
    assert torch.equal(fresh[3].bias, torch.full((3,), 3.0))
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    with pytest.raises(UsageError, match=r"a fresh start .* has parameters of other names or shapes than the base"):
        fresh_start(lambda seed: nn.Linear(4, 3), 0, module)
    assert as_audited_model(module, "m").initial() is None
