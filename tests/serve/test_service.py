"""The service: answers in order, errors that end a whole request, names of models."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

from loupe.errors import ImageError
from loupe.serve.body import Upload
from loupe.serve.metrics import Metrics
from loupe.serve.refusals import Refusal
from loupe.serve.served import unique_names
from loupe.serve.service import Service


class Engine:
    """The logits of an image are its pixels; computing fails for 255."""

    name, batch_images, in_flight = "engine", 4, 1

    def __init__(self):
        self.images = 0

    def run(self, pixels):
        for x_BHWC in pixels:
            self.images += len(x_BHWC)
            time.sleep(0.005)
            if 255 in x_BHWC:
                raise MemoryError
            yield x_BHWC[:, 0, 0].astype(np.float32)


class Decoders:
    """The pixels of a file are its first byte; an empty one is damaged."""

    async def decode(self, data, name, settings):
        await asyncio.sleep(0)
        if not data:
            raise ImageError(name, "empty")
        return np.full((1, 1, 3), data[0], np.uint8)


class Model(SimpleNamespace):
    __hash__ = object.__hash__


def service(*names):
    models = {name: Model(name=name, engine=Engine(), settings={}) for name in names or ("pets",)}
    return Service(models, Decoders(), Metrics(models))


def uploads(*values):
    return [Upload(f"{number}.png", bytes([value] if value is not None else [])) for number, value in enumerate(values)]


def predict(told, images, seconds=10.0):
    async def work():
        deadline = asyncio.get_running_loop().time() + seconds
        return await told.predict(told.model(None), images, deadline)

    return asyncio.run(work())


def test_each_image_gets_its_own_answer_in_order():
    found = predict(service(), uploads(*range(20)))
    assert [logits_K.tolist() for logits_K in found] == [[value] * 3 for value in range(20)]


def test_a_damaged_image_fails_alone():
    first, second, third = predict(service(), uploads(1, None, 3))
    assert (first.tolist(), third.tolist()) == ([1, 1, 1], [3, 3, 3])
    assert isinstance(second, ImageError)


def test_after_an_error_of_the_engine_the_other_images_of_the_request_are_given_up():
    async def work():
        with pytest.raises(MemoryError):
            await told.predict(told.model(None), uploads(255, *range(60)), asyncio.get_running_loop().time() + 10)
        await asyncio.sleep(0.1)

    told = service()
    asyncio.run(work())
    assert told.model(None).engine.images < 15


def test_a_deadline_that_is_over_is_a_refusal():
    with pytest.raises(Refusal) as refused:
        predict(service(), uploads(*range(60)), seconds=0.01)
    assert refused.value.status == 504


def test_the_first_model_is_the_default_and_an_unknown_name_is_refused_with_the_nearest():
    told = service("pets", "flowers")
    assert told.model(None).name == "pets"
    assert told.model("flowers").name == "flowers"
    with pytest.raises(Refusal) as refused:
        told.model("flower")
    assert refused.value.status == 404 and "flowers" in refused.value.message


def test_a_replaced_model_answers_what_it_has_taken_and_is_then_given_up():
    async def work():
        old = told.model(None)
        asked = asyncio.create_task(told.predict(old, uploads(*range(8)), asyncio.get_running_loop().time() + 10))
        await asyncio.sleep(0)
        told.replace(new)
        assert len(await asked) == 8
        await told.predict(told.model(None), uploads(1), asyncio.get_running_loop().time() + 10)
        return old

    told, new = service(), Model(name="pets", engine=Engine(), settings={})
    old = asyncio.run(work())
    assert (old.engine.images, new.engine.images) == (8, 1)
    assert list(told._batchers) == [new]


def test_equal_names_get_numbers():
    assert unique_names(["a", "a", "b", "a-2", "a"]) == ["a", "a-2", "b", "a-2-2", "a-3"]
