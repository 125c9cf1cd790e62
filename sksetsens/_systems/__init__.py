"""The linear system ``H v = -B dx`` at one point, in its dense and its dual form.

Both forms know H, B and ``H^+ B`` as operators, solve for a perturbation of the data,
and take Newton steps on R. "auto" chooses between them.
"""

from ._choice import check_size, choose_system
from ._point import Point, System

__all__ = ["Point", "System", "check_size", "choose_system"]
