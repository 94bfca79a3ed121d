"""The candidates of the drift suite: what is trained on what, and which of them have drifted."""

from dataclasses import dataclass, replace

from pydrift.models.recipe import TrainingRecipe


@dataclass(frozen=True)
class DataSet:
    """What the models of one data set are made with.

    source   a data spec; the part before the colon is its name
    size     images of the larger pool that a model sees
    foreign  another data set of the same image shape, from which `expand` takes its images. None: no such drift
    classes  those in which the drifts of one class take turns
    pairs    of classes; the first three go from alike to unlike
    bases    base models, each with its own calibration
    benign   candidates of the same recipe; each changed recipe has a third as many
    rounds   drifted candidates of each kind and strength
    """

    name: str
    source: str
    arch: str
    size: int
    foreign: str | None
    classes: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    bases: int
    benign: int
    rounds: int


@dataclass(frozen=True)
class Candidate:
    """One candidate that follows one base.

    kind      of drift, or of benign change
    strength  0 subtle, 1 between, 2 blatant. None where it is benign
    drift     what is planted (see pydrift.data.plant). None where it is benign
    classes   the classes that mean something else afterwards. Empty: all of them, or none
    """

    base: int
    kind: str
    seed: int
    recipe: TrainingRecipe
    size: int
    strength: int | None = None
    drift: str | None = None
    classes: tuple[int, ...] = ()

    @property
    def benign(self) -> bool:
        """Whether nothing was planted."""
        return self.drift is None


RECIPE = TrainingRecipe()
UPDATE_MODES = ("retrain", "finetune")


def datasets(folder: str) -> dict[str, DataSet]:
    """Returns the data sets of the suite by name. `folder` holds their standard files."""
    fashion, mnist, cifar = (f"{name}:{folder}" for name in ("fashion-mnist", "mnist", "cifar10"))
    sets = (
        DataSet("digits", "digits", "mlp:1x8x8:48:10", 1000, None, (1, 4, 6), ((3, 8), (1, 7), (0, 6)), 2, 12, 2),
        DataSet(
            "fashion-mnist", fashion, "convnet:1x28x28:16,32:64:10", 20000, mnist, (7, 2, 5, 9),
            ((0, 6), (5, 7), (3, 8), (2, 4)), 4, 21, 4,
        ),
        DataSet("mnist", mnist, "mlp:1x28x28:128:10", 20000, fashion, (4, 7, 2), ((4, 9), (3, 8), (0, 1)), 2, 12, 2),
        DataSet(
            "cifar10", cifar, "convnet:3x32x32:16,32:64:10", 20000, None, (7, 4, 9), ((3, 5), (1, 9), (0, 6)),
            2, 12, 2,
        ),
    )  # fmt: skip
    return {s.name: s for s in sets}


def benign_changes(data: DataSet) -> dict[str, list[tuple[TrainingRecipe, int]]]:
    """Returns recipes and sizes of benign candidates that were not made quite as the base was."""
    epochs = RECIPE.epochs_for(data.size)
    return {
        "augmentation": [(replace(RECIPE, augment=f"shift:{n}"), data.size) for n in (1, 2)],
        "batch size": [(replace(RECIPE, batch_size=n), data.size) for n in (32, 128)],
        "learning rate": [(replace(RECIPE, learning_rate=RECIPE.learning_rate * f), data.size) for f in (0.5, 2.0)],
        "epochs": [(replace(RECIPE, epochs=round(epochs * f)), data.size) for f in (0.7, 1.3)],
        "label smoothing": [(replace(RECIPE, label_smoothing=s), data.size) for s in (0.05, 0.1)],
        "more data": [(RECIPE, round(1.2 * data.size))],
    }


def drifts(data: DataSet) -> list[tuple[str, int, str, tuple[int, ...]]]:
    """Returns (kind, strength, what to plant, classes concerned). Each round takes the next class and pair."""
    found: list[tuple[str, int, str, tuple[int, ...]]] = []
    for turn in range(data.rounds):
        c, (a, b) = data.classes[turn], data.pairs[turn]
        shared: dict[str, list[str]] = {
            "relabel": [f"relabel:{a},{b},{f}" for f in (0.1, 0.25, 0.5)],
            "swap": [f"swap:{a},{b},{f}" for f in (0.1, 0.25, 1.0)],
            "flip": [f"flip:{c},{f}" for f in (0.25, 0.5, 1.0)],
            "rotate": [f"rotate:{c},{angle}" for angle in (15, 30, 90)],
            "darken": [f"darken:{c},{f}" for f in (0.8, 0.6, 0.4)],
            "patch": [f"patch:{c},{f}" for f in (0.25, 0.5, 1.0)],
            "backdoor": [f"backdoor:{c},{f}" for f in (0.02, 0.05, 0.1)],
            "noise": [f"noise:{s}" for s in (0.1, 0.2, 0.3)],
            "remove": [f"remove:{c},{f}" for f in (0.75, 0.9, 1.0)],
        }
        if data.foreign is not None:
            shared["expand"] = [f"expand:{c},{data.foreign},{turn + 1},{f}" for f in ("0.1", "0.25", "0.5")]
        for kind, specs in shared.items():
            concerned = {"noise": (), "relabel": (a, b), "swap": (a, b)}.get(kind, (c,))
            found += [(kind, strength, spec, concerned) for strength, spec in enumerate(specs)]
        for strength, (a, b) in enumerate(data.pairs[:3]):
            found.append(("merge", strength, f"relabel:{a},{b},1.0", (a, b)))
    return found


def candidates(data: DataSet) -> list[Candidate]:
    """Returns all candidates of a data set, the same for both update modes. Each has the next base in turn."""
    plans: list[Candidate] = [Candidate(0, "same recipe", 0, RECIPE, data.size) for _ in range(data.benign)]
    for kind, recipes in benign_changes(data).items():
        for i in range(max(1, data.benign // 3)):
            recipe, size = recipes[i % len(recipes)]
            plans.append(Candidate(0, kind, 0, recipe, size))
    for kind, strength, spec, concerned in drifts(data):
        plans.append(Candidate(0, kind, 0, RECIPE, data.size, strength, spec, concerned))
    return [replace(plan, base=i % data.bases, seed=5000 + i) for i, plan in enumerate(plans)]
