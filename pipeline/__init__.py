"""From prepared data to a deployed student, as a library: functions of values, typed settings and explicit paths.

It never reads the command line, and never imports serve or stages. Each room knows only rooms that stand lower;
tests/test_walls.py holds the list.
"""
