"""Which epoch is the best one."""

import pytest

from loupe.config.optimizer import Logistic
from loupe.config.recipe import Stage
from loupe.training.train_state import TrainState, epoch_line


def position(rows: list[tuple[int, float | None, float | None]]) -> TrainState:
    """Of (stage from 1, validation accuracy, validation loss) of each epoch."""
    names = ("stage", "val_accuracy", "val_loss")
    return TrainState(history=[dict(zip(names, row, strict=True)) for row in rows])


@pytest.mark.parametrize(
    ("rows", "stage", "best"),
    [
        ([(1, 0.5, 1.0), (1, 0.7, 2.0), (1, 0.6, 0.1)], None, 1),
        ([(1, 0.7, 2.0), (1, 0.7, 0.5), (1, 0.7, 0.9)], None, 1),
        ([(1, 0.7, 0.5), (1, 0.7, 0.5)], None, 0),
        ([(1, 0.9, 0.5), (2, 0.7, 0.5), (2, 0.8, 0.9)], 1, 1),
        ([(1, 0.9, 0.5), (2, 0.7, 0.5), (2, 0.9, 0.4)], None, 2),
        ([(1, None, None), (1, None, None)], None, 1),
        ([(1, 0.2, 3.0), (1, None, 1.0)], None, 0),
    ],
)
def test_the_best_epoch_is_the_most_accurate_and_of_equal_ones_that_of_the_lowest_loss(rows, stage, best):
    assert position(rows).best("val_accuracy", stage) == best


def test_of_losses_the_lowest_is_the_best():
    assert position([(1, 0.5, 1.0), (1, 0.4, 0.9), (1, 0.9, 0.95)]).best("val_loss") == 1


def finished(stage: int, epoch: int, loss: float | None) -> TrainState:
    """State after one epoch or L2 strength of a stage, from 0."""
    row = {"stage": stage + 1, "train_loss": 0.5, "train_accuracy": 0.75, "val_loss": loss, "val_accuracy": loss}
    row |= {"seconds": 1.25, "images_per_second": 4321.0}
    return TrainState(stage=stage, epoch=epoch, history=[row], best_epoch=1)


def test_a_line_of_the_log_says_epoch_or_strength():
    head = Stage(epochs=3, part="head", optimizer=Logistic(strongest=2e3, weakest=20))
    words = " ".join(epoch_line(finished(0, 2, 0.25), (head,)).split())
    assert words == "L2 strength 200 2/3 loss 0.5000 accuracy 0.7500 val loss 0.2500 val accuracy 0.2500 1.2 s best"
    assert "stage 1, L2 strength  2,000     1/3 " in epoch_line(finished(0, 1, None), (head, Stage(epochs=8)))
    trained = epoch_line(finished(1, 8, 0.25), (head, Stage(epochs=8)))
    assert trained.startswith("stage 2, epoch   8/8 ") and "4,321 images/s" in trained
