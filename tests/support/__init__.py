"""Helpers that tests share: private hives, real routers, deadlines, tools, and the table of goals.

`support` is on the path of every test (pyproject, `pythonpath`): `from support.wait import eventually`.
"""
