"""Live modules as people have them: compiled, parallel, partly frozen, with hooks."""

import copy
import functools
import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.models.classifier import freeze
from pydrift.models.intake import as_audited_model
from pydrift.models.live import copied, frozen_names, label_names, unwrapped

CPU = torch.device("cpu")


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def test_compiled_and_parallel_modules_are_unwrapped() -> None:
    plain = chain()
    compiled = torch.compile(plain)
    assert unwrapped(compiled) is plain
    assert unwrapped(nn.DataParallel(compiled)) is plain
    found = [as_audited_model(module, "m") for module in (plain, compiled, nn.DataParallel(plain))]
    assert len({one.sha256 for one in found}) == 1
    assert {one.name for one in found} == {"Sequential"}


def test_compiled_parts_are_unwrapped_in_the_copy_only() -> None:
    module = chain()
    plain_names = list(module.state_dict())
    module[1] = torch.compile(module[1])
    assert list(copied(module).state_dict()) == plain_names
    assert hasattr(module[1], "_orig_mod")
    module = chain()
    module.compile()
    freeze(as_audited_model(module, "m").module, (1, 2, 2), CPU)


def test_weight_norm_can_be_copied_after_a_forward_pass() -> None:
    module = chain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(module[1])
    x = torch.rand(3, 1, 2, 2)
    before = module(x).detach()  # now module[1].weight is no leaf, and deepcopy refuses it
    audited = as_audited_model(module, "m").module
    torch.testing.assert_close(audited(x), before)
    with torch.no_grad():
        audited[1].weight_g.zero_()
    assert not torch.allclose(audited(x), before)
    assert torch.equal(module(x), before)


def with_hook(module: nn.Sequential) -> None:
    module[1].register_forward_pre_hook(lambda part, inputs: (inputs[0] * module[3].bias.sum(),))


def with_forward(module: nn.Sequential) -> None:
    inner = module[1]
    inner.forward = lambda x: nn.functional.linear(x, inner.weight)  # type: ignore[method-assign]


def with_partial(module: nn.Sequential) -> None:
    weight = module[1].weight
    hook: Callable[..., Tensor] = lambda scale, part, inputs, output: output * scale.sum()  # noqa: E731
    module[1].register_forward_hook(functools.partial(hook, weight))


def with_nested_function(module: nn.Sequential) -> None:
    def inner(x: Tensor) -> Tensor:
        return nn.functional.linear(x, module[1].weight)

    module[1].helper = lambda x: inner(x)


@pytest.mark.parametrize("spoil", [with_hook, with_forward, with_nested_function])
def test_copies_that_would_answer_by_the_weights_of_the_original_are_refused(spoil: Callable[..., None]) -> None:
    module = chain()
    spoil(module)
    with pytest.raises(UsageError, match=r"^base: 1: a hook or function of it holds on to the module that it was made"):
        as_audited_model(module, "base")


def test_a_module_that_copies_itself_by_hand_is_refused() -> None:
    class Shared(nn.Linear):
        def __deepcopy__(self, memo: object) -> "Shared":
            return self

    with pytest.raises(UsageError, match=r"^m: Sequential cannot be copied: copies share the parameter 0.weight$"):
        as_audited_model(nn.Sequential(Shared(4, 3)), "m")


def test_harmless_hooks_are_taken() -> None:
    module, seen = chain(), []
    module[1].register_forward_hook(lambda part, inputs, output: seen.append(output.shape))
    module[1].register_forward_hook(functools.partial(lambda kept, *_: None, seen))
    with_partial(module)  # a deep copy copies what a partial holds
    x = torch.rand(3, 1, 2, 2)
    audited = as_audited_model(module, "m").module
    torch.testing.assert_close(audited(x), module(x).detach())
    with torch.no_grad():
        module[1].weight.zero_()
    assert not torch.allclose(audited(x), module(x))


def test_frozen_parameters_are_remembered_where_some_learn() -> None:
    module = chain()
    module[1].requires_grad_(False)
    found = as_audited_model(module, "m")
    assert found.frozen == {"1.weight", "1.bias"} == frozen_names(module)
    assert as_audited_model(copy.deepcopy(module).requires_grad_(False), "m").frozen == frozenset()
    assert as_audited_model(chain(), "m").sha256 != found.sha256
    assert tensors_digest(found.module.state_dict()) == tensors_digest(module.state_dict())


def configured(**config: object) -> nn.Module:
    module = chain()
    module.config = types.SimpleNamespace(**config)
    return module


def test_class_names_of_the_configuration() -> None:
    assert label_names(configured(id2label={1: "dog", 0: "cat", 2: "owl"})) == ("cat", "dog", "owl")
    assert label_names(configured(id2label={"0": "cat", "1": "dog"})) == ("cat", "dog")
    assert as_audited_model(configured(id2label={0: "a", 1: "b", 2: "c"}), "m").class_names == ("a", "b", "c")
    for nothing in ({0: "LABEL_0", 1: "LABEL_1"}, {0: "a", 2: "b"}, {0: "a", 1: "a"}, {"x": "a"}, {}, ["a", "b"], None):
        assert label_names(configured(id2label=nothing)) is None
    assert label_names(chain()) is None


def test_a_multi_label_model_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"^m: a multi-label model, and each image must have one class"):
        as_audited_model(configured(problem_type="multi_label_classification"), "m")
