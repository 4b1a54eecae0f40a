"""The boundary F-score by loops over pixels, written from its description alone."""

import math

import numpy as np

_BINOMIAL = (1, 4, 6, 4, 1)


def naive_thin(values: np.ndarray) -> np.ndarray:
    """Crests of an integer map (H, W)."""
    height, width = values.shape

    def value(grid, y, x):
        return int(grid[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)])

    smooth = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            smooth[y][x] = sum(
                _BINOMIAL[i + 2] * _BINOMIAL[j + 2] * value(values, y + i, x + j)
                for i in range(-2, 3)
                for j in range(-2, 3)
            )
    kept = np.zeros_like(values)
    for y in range(height):
        for x in range(width):
            here = smooth[y][x]

            def bend(dy, dx, y=y, x=x, here=here):
                return value(smooth, y + dy, x + dx) + value(smooth, y - dy, x - dx) - 2 * here

            dy, dx = _across(bend(0, 1), bend(1, 0), bend(1, 1), bend(-1, 1))

            if dy is None:  # bends nowhere: of right and down the shorter run
                runs = {step: _run(smooth, y, x, *step) for step in ((0, 1), (1, 0))}
                high = {step: len(run) for step, run in runs.items() if run}
                dy, dx = min(high, key=high.get, default=(0, 1))
            run = _run(smooth, y, x, dy, dx)
            if run and run[len(run) // 2] == (y, x):
                kept[y, x] = values[y, x]
    return kept


def _run(smooth: list[list[int]], y: int, x: int, dy: int, dx: int) -> list[tuple[int, int]]:
    """Pixels of equal value on the line through (y, x); none unless values drop at both ends."""
    height, width, value = len(smooth), len(smooth[0]), smooth[y][x]

    def at(i, j):
        return smooth[i][j] if 0 <= i < height and 0 <= j < width else math.inf

    while at(y - dy, x - dx) == value:
        y, x = y - dy, x - dx
    before, run = at(y - dy, x - dx), []
    while at(y, x) == value:
        run.append((y, x))
        y, x = y + dy, x + dx
    return run if max(before, at(y, x)) < value else []


def _across(right: int, down: int, diagonal: int, other: int) -> tuple[int | None, int | None]:
    """(dy, dx) nearest to the direction of strongest downward curvature; None without one."""
    xx, yy, xy = right, down, (diagonal - other) / 4
    smallest = 0.5 * (xx + yy) - math.hypot(0.5 * (xx - yy), xy)
    if xx == yy and xy == 0:
        return None, None
    # eigenvector of the symmetric matrix ((xx, xy), (xy, yy)) of its smaller eigenvalue
    vectors = [(xy, smallest - xx), (smallest - yy, xy)]
    vx, vy = max(vectors, key=lambda v: math.hypot(*v))
    angle = math.degrees(math.atan2(vy, vx)) % 180
    steps = {0: (0, 1), 45: (1, 1), 90: (1, 0), 135: (-1, 1), 180: (0, 1)}
    # a tie between a straight and a diagonal direction goes to the straight one
    best = min(steps, key=lambda a: (round(abs(angle - a), 6), a % 90))
    return steps[best]


def naive_boundary_scores(
    images: list[tuple[np.ndarray, np.ndarray]], tolerance: float
) -> dict[str, float]:
    """F, precision, recall (percent) and threshold.

    Args:
        images: 8-bit predictions and labels (0, 1, 255 = ignored), (H, W) each.
        tolerance: share of the diagonal.
    """
    thresholds = [k / 20 for k in range(1, 20)]
    sums = {t: [0, 0, 0] for t in thresholds}  # predicted, right, found
    labelled = 0
    for bits, label in images:
        height, width = label.shape
        reach = tolerance * math.hypot(height, width)
        edges = [(int(y), int(x)) for y, x in np.argwhere(label == 1)]
        crests = naive_thin(bits)
        points = [
            (y, x, int(crests[y, x]))
            for y in range(height)
            for x in range(width)
            if label[y, x] != 255 and crests[y, x] > 0
        ]
        labelled += len(edges)
        near = [
            any((y - i) ** 2 + (x - j) ** 2 <= reach * reach for i, j in edges)
            for y, x, _ in points
        ]
        best = [
            max(
                (v for y, x, v in points if (y - i) ** 2 + (x - j) ** 2 <= reach * reach), default=0
            )
            for i, j in edges
        ]
        for t in thresholds:
            sums[t][0] += sum(20 * v > 255 * round(20 * t) for _, _, v in points)
            sums[t][1] += sum(
                ok and 20 * v > 255 * round(20 * t)
                for (_, _, v), ok in zip(points, near, strict=True)
            )
            sums[t][2] += sum(20 * v > 255 * round(20 * t) for v in best)
    rows = []
    for t, (predicted, right, found) in sums.items():
        p, r = right / predicted if predicted else 0.0, found / labelled
        rows.append((2 * p * r / (p + r) if p + r else 0.0, -t, p, r))
    f, t, p, r = max(rows)
    return dict(boundaryF=100 * f, precision=100 * p, recall=100 * r, threshold=-t)
