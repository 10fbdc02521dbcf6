"""A sweep that ends in the middle."""

from fcbp.sweeps.execution import Execution


def raise_after(patch, events, error):
    """Have sweeps raise an error once they have handled so many events."""
    handle, count = Execution._handle, 0

    def ending(self, event):
        nonlocal count
        handle(self, event)
        count += 1
        if count == events:
            raise error

    patch.setattr(Execution, "_handle", ending)
