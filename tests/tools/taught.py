"""The beginning of recipes whose teacher says whether numbers are even; ROWS is their file of rows."""

TAUGHT = """
name = "taught"
task = "own"
[settings]
message = "Is {{ number }} even?"
gold = "answer"
labels = ["yes", "no"]
[data]
train = "ROWS"
test = "ROWS"
[train]
method = "distill"
"""
