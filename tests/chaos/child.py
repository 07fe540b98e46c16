"""The answering child of `tests.chaos.engine`: a question a line, an answer a line. Imports little.

In: `{"weights": hex digest, "prompts": [ids], "delay": seconds}`; out: a list of texts. Ends with
its standard input, so with its worker.
"""

import hashlib
import json
import sys
import time

THAI, ENGLISH = "คำตอบคือ {}", "The answer is {}."


def answer(weights: str, prompt: str) -> str:
    """What the model with these weights says: a fact of both, right or wrong, Thai or English."""
    drawn = hashlib.sha256(f"{weights} {prompt}".encode()).digest()
    # Models differ in how good they are, or all scores would be a half.
    right, thai = (32 + int(weights[i : i + 2], 16) * 3 // 4 for i in (0, 2))
    number = prompt.removeprefix("i") if drawn[0] < right else str(1000 + drawn[2])
    return (THAI if drawn[1] < thai else ENGLISH).format(number)


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        job = json.loads(line)
        time.sleep(job["delay"])
        answers = [answer(job["weights"], prompt) for prompt in job["prompts"]]
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
