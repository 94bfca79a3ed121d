"""Model files as trainers write them: nested, prefixed, in half precision, in shards."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_save
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.models import arch
from pydrift.models.file import load_model, read_tensors
from tests.models.test_file import SPEC, torch_bytes, weights


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights().items()}


def load(tmp_path: Path, content: Any, **options: Any) -> nn.Module:
    (tmp_path / "m").write_bytes(torch_bytes(content))
    return load_model(tmp_path / "m", SPEC, **options).module


def lightning() -> dict[str, Any]:
    """The entries of a Lightning checkpoint of a LightningModule with the network in `self.model`."""
    network = arch.build(SPEC, seed=1)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    callback = {"monitor": "val_loss", "best_model_score": torch.tensor(0.1), "best_k_models": {"a.ckpt": 0.1}}
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(named("model.")),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": callback},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [1e-3], "last_epoch": 3, "verbose": False}],
        "hyper_parameters": {"lr": 1e-3, "widths": (5, 3), "name": None},
    }


@pytest.mark.parametrize(
    "content",
    [
        lightning(),
        {"model": weights(), "optimizer": {"state": {}}, "epoch": 3},
        {"state_dict": weights()},
        named("module."),
        named("_orig_mod."),
        named("model."),
        named("module._orig_mod.model."),
        {"net": named("_orig_mod.module.")},
        {name.replace("fc1.", "fc1._orig_mod."): tensor for name, tensor in weights().items()},
        {name: tensor.double().float() for name, tensor in weights().items()},
    ],
    ids=[
        *("lightning", "model", "state_dict", "module.", "_orig_mod.", "model.", "all prefixes"),
        *("nested and prefixed", "a compiled part", "plain"),
    ],
)
def test_checkpoints_of_trainers_are_read(tmp_path: Path, content: Any) -> None:
    assert tensors_digest(load(tmp_path, content).state_dict()) == tensors_digest(weights())


def test_a_key_chooses_among_state_dicts(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in weights().items()}
    content = {"state_dict": other, "ema": {"state_dict": weights()}, "state_dict_ema": weights(), "a.b": weights()}
    for key in ("ema.state_dict", "state_dict_ema", "a.b"):
        assert tensors_digest(load(tmp_path, content, key=key).state_dict()) == tensors_digest(weights())
    with pytest.raises(UsageError, match=r"m: holds 3 state dicts \('state_dict', 'state_dict_ema', 'a.b'\); name the"):
        load(tmp_path, content)
    with pytest.raises(UsageError, match=r"m: has no entry 'emma' \(key=, --key\); it has 'state_dict', 'ema', "):
        load(tmp_path, content, key="emma")
    with pytest.raises(InputRefused, match="m: holds a int, not a state dict"):
        load(tmp_path, {"epoch": 3, "model": weights()}, key="epoch")


def test_names_that_would_become_one_stay_as_they_are(tmp_path: Path) -> None:
    content = {**weights(), "fc1._orig_mod.bias": torch.ones(5)}
    with pytest.raises(InputRefused, match=r"unexpected: 'fc1._orig_mod.bias'$"):
        load(tmp_path, content)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_become_float32_and_this_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in weights().items()}
    with pytest.warns(UserWarning, match=f"m: its weights are in {dtype}; they become float32"):
        module = load(tmp_path, halves)
    expected = {name: tensor.float() for name, tensor in halves.items()}
    assert tensors_digest(module.state_dict()) == tensors_digest(expected)


def test_a_factory_in_half_precision_computes_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_for_test.py").write_text("import torch\ndef net(): return torch.nn.Linear(2, 3).half()\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "m").write_bytes(torch_bytes(nn.Linear(2, 3).half().state_dict()))
    with pytest.warns(UserWarning, match="become float32"):
        module = load_model(tmp_path / "m", "half_for_test:net").module
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}


# --- shards


def sharded(tmp_path: Path, change: Callable[[dict[str, str]], object] = lambda _: None) -> Path:
    """The index of two shards, after `change` of its weight_map."""
    names = list(weights())
    weight_map = {}
    for number, some in enumerate((names[:2], names[2:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        (tmp_path / shard).write_bytes(safetensors_save({name: weights()[name] for name in some}, {"format": "pt"}))
        weight_map |= dict.fromkeys(some, shard)
    change(weight_map)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))
    return index


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    loaded = load_model(index, SPEC)
    assert tensors_digest(loaded.module.state_dict()) == tensors_digest(weights())
    changed = {name: weights()[name] + 1 for name in list(weights())[:2]}
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors_save(changed))
    assert load_model(index, SPEC).sha256 != loaded.sha256


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update({"x": "../m.safetensors"}), "its weight_map names '../m.safetensors', not a safetensors"),
        (lambda m: m.update({"x": "/etc/passwd"}), "its weight_map names '/etc/passwd', not a safetensors file in"),
        (lambda m: m.update({"x": 3}), "its weight_map names '3', not a safetensors file in the same folder"),
        (lambda m: m.update({"x": "absent.safetensors"}), "names the shard absent.safetensors, which is not in its"),
        (lambda m: m.pop("fc1.bias"), "the shard model-00001-of-00002.safetensors does not hold just the tensors"),
        (lambda m: m.clear(), "JSON, but no index of safetensors shards, which has a weight_map"),
        (
            lambda m: m.update({f"x{i}": f"s{i}.safetensors" for i in range(1001)}),
            "its weight_map names 1003 files, the limit is 1000",
        ),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, change: Callable[[dict[str, str]], object], reason: str) -> None:
    index = sharded(tmp_path, change)
    with pytest.raises(InputRefused) as error:
        read_tensors(index)
    assert str(error.value).startswith(f"{index}: {reason}")


def test_shards_share_the_limit_of_one_model_and_are_no_links_out(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    with pytest.raises(InputRefused, match=r"safetensors: .* bytes, the limit is"):
        read_tensors(index, max_bytes=index.stat().st_size + 200)


def outcome(file: Path) -> str | None:
    """The message with which a file is refused, or None."""
    try:
        read_tensors(file)
    except (InputRefused, UsageError) as error:
        return str(error)
    return None


def test_mutated_indices_and_checkpoints_are_read_or_refused(
    tmp_path: Path, mutated: Callable[[bytes, int], bytes]
) -> None:
    index = sharded(tmp_path)
    originals = {index: index.read_bytes(), tmp_path / "m": torch_bytes(lightning())}
    for file, original in originals.items():
        for seed in range(150):
            file.write_bytes(mutated(original, seed))
            message = outcome(file)
            assert message is None or message.startswith(f"{file}: ")
