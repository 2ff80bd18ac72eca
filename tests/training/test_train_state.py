"""Which epoch is the best one."""

import pytest

from loupe.training.train_state import TrainState


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
