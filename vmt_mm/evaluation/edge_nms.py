"""Thin maps of boundary probabilities to their crests."""

from __future__ import annotations

import cv2
import numpy as np

#: Binomial weights; whole numbers keep the smoothed map, and so every comparison, exact.
_SMOOTH = np.float32([1, 4, 6, 4, 1])
#: Length of a run that is not higher than what lies at its ends.
_NONE = np.iinfo(np.int32).max


def thin(values: np.ndarray) -> np.ndarray:
    """Keep the crests of a map (H, W) uint8 at their values; all else becomes 0.

    Non-maximum suppression: the map is smoothed by a 5 x 5 binomial filter. The direction across
    a crest is the one, of right, down and the two diagonals, in which the smoothed map bends down
    most. Pixels of equal value in this direction are one run, and of a run that is higher than
    what lies before and behind it the middle stays, of an even number the later one of both: so
    that of a band of probability 1, however wide, the line in its middle stays. Within such a band
    the map bends nowhere, and the direction is the one, of right and down, in which the run is
    shorter. What lies outside the image counts as higher: a map that rises towards its border has
    no crest there.
    """
    smooth = cv2.sepFilter2D(
        values.astype(np.float32), cv2.CV_32F, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REPLICATE
    )
    height, width = smooth.shape
    around = np.pad(smooth, 1, mode="edge")

    def moved(y: int, x: int) -> np.ndarray:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    # The Hessian's eigenvector of the smaller eigenvalue has the double angle of (-a, -b).
    a = moved(0, 1) + moved(0, -1) - moved(1, 0) - moved(-1, 0)  # d_xx - d_yy
    b = (moved(1, 1) + moved(-1, -1) - moved(1, -1) - moved(-1, 1)) / 2  # 2 d_xy
    seen = values > 0
    straight, flat = seen & (np.abs(b) <= np.abs(a)), seen & (a == 0) & (b == 0)
    right, down = (_ends(smooth, *step) for step in ((0, 1), (1, 0)))
    is_down = a > 0
    is_down[flat] = _lengths(*down, flat) < _lengths(*right, flat)
    crest = np.zeros_like(seen)
    for ends, here in (
        (right, straight & ~is_down),
        (down, straight & is_down),
        (_ends(smooth, 1, 1), seen & ~straight & (b < 0)),
        (_ends(smooth, -1, 1), seen & ~straight & (b > 0)),
    ):
        crest[here] = _are_middles(*ends, here)
    return np.where(crest, values, 0)


def _ends(smooth: np.ndarray, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """What follows along a step, and along the opposite one, see :func:`_runs`."""
    return _runs(smooth, y, x), _runs(smooth, -y, -x)


def _lengths(ahead: np.ndarray, behind: np.ndarray, here: np.ndarray) -> np.ndarray:
    """A measure of the runs' lengths where ``here`` is true; ``_NONE`` of those not highest."""
    ahead, behind = ahead[here], behind[here]
    return np.where(ahead & behind & 1, ahead + behind, _NONE)


def _are_middles(ahead: np.ndarray, behind: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Whether pixels where ``here`` is true are the middles of runs that are highest."""
    ahead, behind = ahead[here], behind[here]
    return (ahead & behind & 1 == 1) & ((behind == ahead) | (behind == ahead + 2))


def _runs(smooth: np.ndarray, y: int, x: int) -> np.ndarray:
    """Twice the number of equal values that follow along a step, plus 1 if the next is lower."""
    if y == 0:
        return _runs(np.ascontiguousarray(smooth.T), x, 0).T
    if y < 0:
        return _runs(smooth[::-1, ::-1], -y, -x)[::-1, ::-1]
    width = smooth.shape[1]
    here, there = slice(max(0, -x), width - max(0, x)), slice(max(0, x), width + min(0, x))
    one, other = smooth[:-1, here], smooth[1:, there]
    runs = np.zeros(smooth.shape, np.int32)
    runs[:-1, here] = other < one
    same = (other == one) & (one > 0)  # of a 0 nothing can stay
    for row in np.flatnonzero(same.any(axis=1))[::-1]:
        runs[row, here] += (runs[row + 1, there] + 2) * same[row]
    return runs
