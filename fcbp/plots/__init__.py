"""Pictures of a sweep's results."""

from fcbp.plots.charts import histogram, learning_curves, methods, sensitivity
from fcbp.plots.files import save
from fcbp.plots.parts import PALETTE

__all__ = ["PALETTE", "histogram", "learning_curves", "methods", "save", "sensitivity"]
