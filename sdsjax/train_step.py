"""The training step, under the path that other code imports: training/train_step."""

from sdsjax.training.train_step import *  # noqa: F403
