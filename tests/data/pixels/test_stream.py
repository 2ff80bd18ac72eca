"""Images in one reading: batches as they are cut for evaluation, whatever chunks they are decoded in."""

from hashlib import sha256

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import picture
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.read_ahead import cut
from loupe.data.pixels.stream import DecodedImages, in_batches, stream
from loupe.data.sources.folders import from_paths


def chunks(sizes):
    start = 0
    for size in sizes:
        row_B = np.arange(start, start + size)
        pixels = np.broadcast_to(row_B[:, None, None, None], (size, 1, 1, 3)).astype(np.uint8)
        yield DecodedImages(row_B, tuple(map(str, row_B)), pixels)
        start += size


@settings(derandomize=True, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=12), batch=st.integers(1, 7))
def test_batches_are_those_that_rows_are_cut_into(sizes, batch):
    made = list(in_batches(chunks(sizes), batch))
    wanted = cut(np.arange(sum(sizes)), batch)
    assert [one.row_B.tolist() for one in made] == [rows.tolist() for rows in wanted if len(rows)]
    assert all(one.pixels[:, 0, 0, 0].tolist() == one.row_B.tolist() for one in made)
    assert all(one.content == tuple(map(str, one.row_B)) for one in made)


def test_damaged_images_are_beside_the_intact_ones_with_their_hashes(tmp_path):
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(b"damaged" if k == 2 else picture(k))
    images = EncodedImages(from_paths([str(tmp_path)]), 8, "squash", "bilinear")
    [whole] = stream(images, "decoding")
    assert whole.row_B.tolist() == [0, 1, 3]
    assert [damage.index for damage in whole.damaged] == [2]
    assert whole.content == tuple(sha256(picture(k)).hexdigest() for k in (0, 1, 3))
