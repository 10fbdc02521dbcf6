"""Pictures of a sweep's results."""

from fcbp.plots.charts import heat, histogram, learning_curves, methods, sensitivity
from fcbp.plots.files import save
from fcbp.plots.parts import PALETTE

__all__ = ["PALETTE", "heat", "histogram", "learning_curves", "methods", "save", "sensitivity"]
