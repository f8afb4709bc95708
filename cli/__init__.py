"""The command line of anytime-cls, installed as `anytime_cls_cli`: one file a command.

Importing it imports neither torch nor NumPy; a command imports what it needs when it runs.
"""
