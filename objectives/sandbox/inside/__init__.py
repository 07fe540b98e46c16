"""What runs inside a sandbox before the tested program: it locks itself in, then runs the text.

Standard library only, and started by path as a package of its own (`python -c "from inside.start
import main"`): a start must cost milliseconds, and a sandbox shows the program no more than this
folder. Hence the relative imports.
"""
