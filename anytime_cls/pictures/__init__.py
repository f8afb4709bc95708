"""Numbers become pictures and pages."""

import contextlib
import os
import sys

if "matplotlib" not in sys.modules:
    # Pictures that go to files need no backend. One that MPLBACKEND names, as notebooks do, but that is not
    # installed here, ends matplotlib's import: so it is set as matplotlib would, after it and if it can be.
    _given = os.environ.pop("MPLBACKEND", None)
    with contextlib.suppress(ImportError):
        import matplotlib

        with contextlib.suppress(ValueError):
            if _given:
                matplotlib.rcParams["backend"] = _given
    if _given is not None:
        os.environ["MPLBACKEND"] = _given
