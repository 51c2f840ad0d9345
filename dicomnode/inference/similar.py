"""The nearest codes among many, with numpy alone."""

from collections.abc import Iterator, Sequence

import numpy as np

STORED = np.dtype("<f4")


def nearest(own: Sequence[bytes], others: Sequence[bytes]) -> Iterator[tuple[int, float]]:
    """Yield the position in `others` and the distance to the nearest of `own`, nearest first.

    All are codes of one length by one network; the distance is Euclidean.
    """
    if not own or not others:
        return
    ours = np.frombuffer(b"".join(own), STORED).reshape(len(own), -1)  # (M, code)
    theirs = np.frombuffer(b"".join(others), STORED).reshape(len(others), -1)  # (N, code)
    squares = np.square(theirs).sum(1)  # (N,)
    best = np.full(len(theirs), np.inf, np.float32)
    for code in ours:
        np.minimum(best, squares - 2 * (theirs @ code) + code @ code, out=best)
    for position in np.argsort(best, kind="stable"):
        # worked out anew: the difference of large squares is not exact for near codes
        distance = np.sqrt(np.square(ours - theirs[position]).sum(1).min())
        yield int(position), float(distance)
