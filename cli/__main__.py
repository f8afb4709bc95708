"""`python -m anytime_cls_cli`: the same as the command `anytime-cls`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
