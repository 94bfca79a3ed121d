"""Trains models by a recipe: one in torch, or many at once natively."""

from pydrift.models.recipe import TrainingRecipe
from pydrift.training.loop import Train, predict, seeded, train
from pydrift.training.many import Checkpoint, native_program, train_many

__all__ = ["Checkpoint", "Train", "TrainingRecipe", "native_program", "predict", "seeded", "train", "train_many"]
