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
    bases    base models, each with its own calibrations
    benign   benign candidates of a base: so many of the same recipe, and so many of recipes in range
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

    group     of GROUPS
    kind      of drift, or of benign change
    strength  0 subtle, 1 between, 2 blatant. None where it is benign
    drift     what is planted (see pydrift.data.plant). None where it is benign
    classes   the classes that mean something else afterwards. Empty: all of them, or none
    """

    base: int
    group: str
    kind: str
    seed: int
    recipe: TrainingRecipe
    size: int
    strength: int | None = None
    drift: str | None = None
    classes: tuple[int, ...] = ()

    @property
    def benign(self) -> bool:
        """Whether the concepts are those of the base."""
        return self.group in (SAME, IN_RANGE)


SAME, IN_RANGE, DRIFT, DRIFT_IN_RANGE, OUTSIDE = GROUPS = (
    "same recipe",
    "in range",
    "drift",
    "drift, changed recipe",
    "outside",
)
"""Benign ones of the base's recipe and of recipes as `varied` draws them; drifted ones of both; and harmless changes
that shadows do not make."""

RECIPE = TrainingRecipe()
UPDATE_MODES = ("retrain", "finetune")


def datasets(folder: str) -> dict[str, DataSet]:
    """Returns the data sets of the suite by name. `folder` holds their standard files."""
    fashion, mnist, cifar = (f"{name}:{folder}" for name in ("fashion-mnist", "mnist", "cifar10"))
    sets = (
        DataSet("digits", "digits", "mlp:1x8x8:48:10", 1000, None, (1, 4, 6), ((3, 8), (1, 7), (0, 6)), 2, 100, 2),
        DataSet(
            "fashion-mnist", fashion, "convnet:1x28x28:16,32:64:10", 20000, mnist, (7, 2, 5, 9),
            ((0, 6), (5, 7), (3, 8), (2, 4)), 4, 50, 4,
        ),
        DataSet("mnist", mnist, "mlp:1x28x28:128:10", 20000, fashion, (4, 7, 2), ((4, 9), (3, 8), (0, 1)), 2, 100, 2),
        DataSet(
            "cifar10", cifar, "convnet:3x32x32:16,32:64:10", 20000, None, (7, 4, 9), ((3, 5), (1, 9), (0, 6)),
            2, 100, 2,
        ),
    )  # fmt: skip
    return {s.name: s for s in sets}


def changes_outside(data: DataSet) -> dict[str, tuple[TrainingRecipe, int, str | None]]:
    """Returns recipe, size and what is planted of candidates that were made otherwise than any shadow is."""
    epochs, size = RECIPE.epochs_for(data.size), data.size
    recipes = {
        "epochs x 4": replace(RECIPE, epochs=4 * epochs),
        "epochs / 4": replace(RECIPE, epochs=max(1, epochs // 4)),
        "learning rate x 4": replace(RECIPE, learning_rate=4 * RECIPE.learning_rate),
        "learning rate / 8": replace(RECIPE, learning_rate=RECIPE.learning_rate / 8),
        "batch size x 8": replace(RECIPE, batch_size=8 * RECIPE.batch_size),
        "shift of 4 pixels": replace(RECIPE, augment="shift:4"),
        "mirrored": replace(RECIPE, augment="flip"),
        "label smoothing .25": replace(RECIPE, label_smoothing=0.25),
        "SGD": replace(RECIPE, optimizer="sgd", learning_rate=0.05),
        "weight decay .1": replace(RECIPE, weight_decay=0.1),
    }
    found: dict[str, tuple[TrainingRecipe, int, str | None]] = {k: (r, size, None) for k, r in recipes.items()}
    found["20 % more data"] = (RECIPE, round(1.2 * size), None)
    found["30 % less data"] = (RECIPE, round(0.7 * size), None)
    found["half of one class"] = (RECIPE, size, f"remove:{data.classes[0]},0.5")
    return found


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


def candidates(data: DataSet, benign: int | None = None) -> list[Candidate]:
    """Returns all candidates of a data set, the same for both update modes.

    benign  overrides that of the data set

    Each base has its own benign candidates. Of the others, each follows the next base in turn.
    """

    def varied(number: int) -> TrainingRecipe:
        return RECIPE.varied(9_000_000 + number, data.size)

    numbers = range(data.bases * (data.benign if benign is None else benign))
    own = [Candidate(i % data.bases, SAME, SAME, 20000 + i, RECIPE, data.size) for i in numbers]
    own += [Candidate(i % data.bases, IN_RANGE, IN_RANGE, 30000 + i, varied(i), data.size) for i in numbers]
    for i, (kind, strength, spec, concerned) in enumerate(drifts(data)):
        plan = Candidate(i % data.bases, DRIFT, kind, 5000 + i, RECIPE, data.size, strength, spec, concerned)
        own.append(plan)
        own.append(replace(plan, group=DRIFT_IN_RANGE, seed=45000 + i, recipe=varied(100_000 + i)))
    for i, (kind, (recipe, size, planted)) in enumerate(changes_outside(data).items()):
        for k in range(2 * data.bases):
            own.append(Candidate(k % data.bases, OUTSIDE, kind, 50000 + 100 * i + k, recipe, size, drift=planted))
    return own
