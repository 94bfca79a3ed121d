"""A frozen copy of any module, with BatchNorm folded into the convolutions before it where that is proven right."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pydrift.models.live import in_evaluation
from pydrift.models.outputs import to_logits

RELATIVE_TOLERANCE = 1e-4  # of the largest |logit|, for the float32 result against the module in float64
_NUM_PROBES = 4


def frozen_copy(module: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """The function of `module` in evaluation mode: float32, on the CPU, no parameter requires grad.

    A BatchNorm that is the only reader of a convolution becomes part of it. This needs a forward that torch.fx can
    trace, and the folded network must give the logits of the module on seeded images. Else nothing is folded. Not for
    use while other threads run modules: tracing replaces nn.Module.__call__ for its duration.

    module       maps [N, C, H, W] to logits [N, K]; it is not changed
    input_shape  (C, H, W)
    """
    plain = in_evaluation(copy.deepcopy(module).cpu().float())
    if not any(isinstance(part, nn.BatchNorm2d) for part in plain.modules()):
        return plain
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            folded = _fold(plain)
            generator = torch.Generator("cpu").manual_seed(0)
            probes = torch.rand((_NUM_PROBES, *input_shape), generator=generator, dtype=torch.float32, device="cpu")
            expected = copy.deepcopy(plain).double()(probes.double())
            same = _agree(to_logits(folded(probes), _NUM_PROBES), to_logits(expected, _NUM_PROBES))
        except Exception:  # from tracing or the user's forward: then the folding is not proven right
            return plain
    return folded if same else plain


def _fold(module: nn.Module) -> nn.Module:
    traced = fx.symbolic_trace(copy.deepcopy(module))
    parts = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or type(parts[node.target]) is not nn.BatchNorm2d:
            continue
        conv = node.args[0]
        alone = conv.op == "call_module" and len(conv.users) == 1 and _calls(traced, conv.target) == 1
        if not alone or type(parts[conv.target]) is not nn.Conv2d:
            continue
        owner, _, name = conv.target.rpartition(".")
        setattr(traced.get_submodule(owner), name, fuse_conv_bn_eval(parts[conv.target], parts[node.target]))
        node.replace_all_uses_with(conv)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return in_evaluation(traced)


def _calls(traced: fx.GraphModule, target: str) -> int:
    return sum(node.op == "call_module" and node.target == target for node in traced.graph.nodes)


def _agree(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= RELATIVE_TOLERANCE * expected.abs().max())  # a NaN does not
