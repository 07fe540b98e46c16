"""When an answer has stopped saying anything: its end is one stretch of tokens, over and over.

The rule looks at token ids alone and at exact repetition alone, and asks for so much of it that
what people write is left in peace: rows of dots or dashes, padding of drawings, empty table rows,
matrices of zeros, refrains, repeated Thai signs. A count that goes on ("1. a 2. a 3. a") is no
loop. An answer ended by it keeps its text as it was generated: scorers see what the model said.
"""

from collections.abc import Sequence
from typing import Any

CHECK_EVERY = 32
"""An answer is looked at whenever it has a multiple of this many tokens."""

LONGEST_PERIOD = 512
"""Longer stretches may repeat as often as they like: a budget of tokens ends them too."""

REPEATED = 256
"""Tokens that must repeat, where the stretch is not so long that its 4 repetitions are more."""

SHORT_PERIOD, SHORT_REPEATED = 4, 512
"""Stretches so short must repeat for so many tokens: rules, leaders and padding are made of them.
"""


def is_loop(tokens: Sequence[Any]) -> bool:
    """Whether `tokens` end in a loop.

    Let p be the smallest period, 512 tokens at most, with which the last max(256, 4 p) of them
    repeat. They end in a loop if there is one, and, where p is 4 or less, the last 512 repeat too.
    Costs a look at the last 520 tokens, and a comparison wherever the last one came before.
    """
    if len(tokens) < REPEATED:
        return False
    recent = list(tokens[: -LONGEST_PERIOD - 10 : -1])  # the last one first
    end = recent[:8]
    period = 0
    while True:
        try:
            period = recent.index(end[0], period + 1, LONGEST_PERIOD + 1)
        except ValueError:
            return False
        if recent[period : period + 8] == end and _repeats(
            tokens, period, max(REPEATED, 4 * period)
        ):
            return period > SHORT_PERIOD or _repeats(tokens, period, SHORT_REPEATED)


def _repeats(tokens: Sequence[Any], period: int, span: int) -> bool:
    return (
        span <= len(tokens)
        and tokens[-span] == tokens[period - span]  # copies nothing, and mostly settles it
        and tokens[-span:-period] == tokens[period - span :]
    )
