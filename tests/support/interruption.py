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


class Killed(BaseException):
    """Stands for a kill: nobody catches it to tidy up."""


def kill_after(patch, events):
    """Have sweeps end, as if killed, once they have handled so many events: no state is written after them."""
    handle, write, count = Execution._handle, Execution._write_config, 0

    def counting(self, event):
        nonlocal count
        handle(self, event)
        count += 1

    patch.setattr(Execution, "_handle", counting)
    patch.setattr(Execution, "_write_config", lambda self, state: None if count == events else write(self, state))
    raise_after(patch, events, Killed)
