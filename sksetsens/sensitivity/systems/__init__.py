"""The linear system ``H v = -B dx`` at one point: in weights or dual, dense or not.

All forms know H, B and ``H^+ B`` as operators, solve for a perturbation of the data,
and take Newton steps on R. "auto" chooses between them.
"""

from ._choice import check_size, choose_system
from ._kinked import OnKinks
from ._point import Point, System
from ._solver import Solver

__all__ = ["OnKinks", "Point", "Solver", "System", "check_size", "choose_system"]
