"""Affine maps of the plane of an image."""

from __future__ import annotations

import math

Pair = tuple[float, float]


def invert_affine(
    *,
    degrees: float = 0.0,
    translation: Pair = (0.0, 0.0),
    scale: float = 1.0,
    shear: Pair = (0.0, 0.0),
    centre: Pair = (0.0, 0.0),
) -> tuple[float, ...]:
    """Return the inverse of an affine map.

    It is a, b, c, d, e, f, where the position (x, y) comes from (a x + b y + c, d x + e y + f). The
    map shears along x, shears along y, rotates and scales, all about `centre`, then translates.
    Positions are in pixels from the middle of the image, x to the right and y downwards. It is the
    map of torchvision's `affine`.

    Args:
        degrees: clockwise rotation.
        translation: along x and y.
        scale: factor of both sides.
        shear: angles along x and y, in degrees.
        centre: the point that shear, rotation and scaling keep.
    """
    angle = math.radians(degrees)
    shear_x, shear_y = (math.tan(math.radians(degrees)) for degrees in shear)
    cos, sin = math.cos(angle), math.sin(angle)
    # Rotation (cos -sin, sin cos) times shear along y (1 0, -t 1) times shear along x (1 -t, 0 1).
    p, q = cos + sin * shear_y, -sin
    r, s = sin - cos * shear_y, cos
    q, s = q - p * shear_x, s - r * shear_x
    determinant = (p * s - q * r) * scale
    a, b, d, e = s / determinant, -q / determinant, -r / determinant, p / determinant
    x, y = centre[0] + translation[0], centre[1] + translation[1]
    return a, b, centre[0] - a * x - b * y, d, e, centre[1] - d * x - e * y
