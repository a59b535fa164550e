"""Regular expressions for ranges of integers of any size."""


def integers_between(low: int | None, high: int | None) -> str:
    """Return a regular expression of the integers from `low` to `high` inclusive; None means no bound.

    The integers are in JSON syntax: no leading zeros, no plus sign, no minus before 0.
    """
    assert low is None or high is None or low <= high
    options = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        options.append(f"-({_positive(least, None if low is None else -low)})")
    if (high is None or high >= 0) and (low is None or low <= 0):
        options.append("0")
    if high is None or high > 0:
        options.append(_positive(max(low or 1, 1), high))
    return "|".join(options)


def _positive(low: int, high: int | None) -> str:
    """Return the expression of a range of positive integers."""
    longest = len(str(low if high is None else high))
    options = []
    for length in range(len(str(low)), longest + 1):
        first, last = max(low, 10 ** (length - 1)), 10**length - 1
        options.append(_same_length(str(first), str(last if high is None else min(high, last))))
    if high is None:
        options.append(f"[1-9][0-9]{{{longest},}}")
    return "|".join(options)


def _same_length(low: str, high: str) -> str:
    """Return the expression of the digit strings from one to another of the same length."""
    if low == high:
        return low
    if low[0] == high[0]:
        return low[0] + f"({_same_length(low[1:], high[1:])})"
    rest = len(low) - 1
    if not rest:
        return f"[{low}-{high}]"
    first, last = int(low[0]), int(high[0])
    options = []
    if low[1:].strip("0"):
        options.append(f"{first}({_same_length(low[1:], '9' * rest)})")
        first += 1
    if high[1:].strip("9"):
        options.append(f"{last}({_same_length('0' * rest, high[1:])})")
        last -= 1
    if first <= last:
        options.append(f"[{first}-{last}][0-9]{{{rest}}}")
    return "|".join(options)
