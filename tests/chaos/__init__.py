"""A search whose every part is killed at random, and what must be true of it all the same.

`python -m tests.chaos --help`; docs/chaos.md says what is checked.
"""
