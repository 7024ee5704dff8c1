"""What may be wrong with a document: a key, its code, the message, the fix, from problems.txt."""

from pathlib import Path

PROBLEMS = {
    problem: (code, message, fix)
    for problem, code, message, fix in (
        line.split(" | ") for line in Path(__file__).with_suffix(".txt").read_text().splitlines()
    )
}
