"""What models are shown when they are to be judged: gray data in many views, with small marks, and simple shapes."""

from pydrift.probes.marks import COLOURS, marked
from pydrift.probes.shapes import SHAPES, drawn
from pydrift.probes.views import VIEWS, shown

__all__ = ["COLOURS", "SHAPES", "VIEWS", "drawn", "marked", "shown"]
