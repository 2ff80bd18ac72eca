import pytest

from loupe.errors import counted, enumerated, sentences


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (0, "image", None, "0 images"),
        (1, "epoch", None, "1 epoch"),
        (1234, "image", None, "1,234 images"),
        (2, "class", None, "2 classes"),
        (2, "box", None, "2 boxes"),
        (2, "batch", None, "2 batches"),
        (1, "copy", "copies", "1 copy"),
        (2, "copy", "copies", "2 copies"),
    ],
)
def test_a_number_and_its_noun_agree(count, noun, plural, text):
    assert counted(count, noun, plural) == text


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_items_are_enumerated(items, text):
    assert enumerated(items) == text


def test_an_enumeration_says_how_many_are_left_out():
    assert enumerated(["a", "b", "c"], conjunction="or", most=3) == "a, b or c"
    assert enumerated(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


def test_sentences_end_in_one_full_stop():
    assert sentences("the class a has none.", "", "Others have 3") == "the class a has none. Others have 3."
