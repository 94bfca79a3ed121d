"""Live modules: two that are not the same function never pass for one, and a copy always does."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pydrift.core.errors import UsageError
from pydrift.core.run_store import RunFolder
from pydrift.models.classifier import freeze
from pydrift.models.intake import as_audited_model, refuse_other_answers


class Net(nn.Module):
    """With a plain attribute, a buffer that no state dict has, a plain tensor and extra state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.scale = 1.0
        self.shift = torch.zeros(3)
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.extra = {"a": 1}

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) * self.scale * FACTOR + self.shift + self.hidden


FACTOR = 1.0


def changed(**attributes: object) -> Net:
    net = Net()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def test_the_identity_of_a_live_module_is_all_that_it_shows() -> None:
    class Other(Net):
        pass

    nets = [
        Net(),
        Other(),
        changed(scale=2.0),
        changed(shift=torch.ones(3)),
        changed(hidden=torch.ones(3)),
        changed(extra={"a": 2}),
        changed(layer=nn.Linear(4, 3)),
    ]
    found = [as_audited_model(net, "model").sha256 for net in nets]
    assert len(set(found)) == len(nets)
    assert [as_audited_model(copy.deepcopy(net), "model").sha256 for net in nets] == found


def test_finished_pieces_of_a_model_with_other_answers_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A global that the forward reads is nothing that a module shows."""
    with RunFolder(tmp_path, {}) as run:
        for _ in range(2):
            refuse_other_answers(run, "answers", freeze(Net().eval(), (1, 2, 2), torch.device("cpu")))
        monkeypatch.setitem(globals(), "FACTOR", 1.01)
        with pytest.raises(UsageError, match="holds the work of another model: its answers to noise differ"):
            refuse_other_answers(run, "answers", freeze(Net().eval(), (1, 2, 2), torch.device("cpu")))
