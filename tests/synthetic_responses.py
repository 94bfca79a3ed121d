"""Responses of made-up models, benign and drifted, for tests of the verdict: their truth is known."""

import numpy as np

from pydrift.drift.verdict import Evidence, decide

TRANSFORMS = {"gray data": ("plain", "darker", "own"), "occlusions": ("white occlusions",)}
PLACES = (2, 2)
FACTORS = 2


def each(change, answers):
    """Every table changed."""
    return {i: {v: change(table) for v, table in views.items()} for i, views in answers.items()}


def world(rng, classes):
    """What all benign models say on average, and how recipes move it: of each view [1 + FACTORS, rows, classes]."""
    rows = {"gray data": (classes,), "occlusions": PLACES}
    return {
        i: {v: rng.normal(0, 3, (1 + FACTORS, *rows[i], classes)) for v in views} for i, views in TRANSFORMS.items()
    }


def benign(rng, about, models, draw=None):
    """Responses of benign models: the mean, moved together by each model's recipe, and noise of their own."""
    draw = draw or rng.standard_normal
    recipe = rng.standard_normal((models, FACTORS))
    return each(lambda a: a[0] + np.tensordot(recipe, a[1:], axes=1) + draw((models, *a.shape[1:])), about)


def apart(answers):
    """The last model, and the others."""
    return each(lambda a: a[:-1], answers), each(lambda a: a[-1].copy(), answers)


def names(classes):
    return [f"class {c}" for c in range(classes)]


def judged(shadows, new, alpha=0.05, base=None, confidence=None):
    classes = new["gray data"]["plain"].shape[1]
    sure = np.ones(classes) if confidence is None else confidence
    return decide(Evidence(shadows, new, sure, names(classes), base), alpha)


def drifted(new, label, size):
    """A new model to which everything about `label` looks otherwise."""
    moved = each(np.copy, new)
    for i, values in enumerate(moved["gray data"].values()):
        values[label, :] += size * (-1) ** i
        values[:, label] -= size
    moved["occlusions"]["white occlusions"][..., label] += size
    return moved
