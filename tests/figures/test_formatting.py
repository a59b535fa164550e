"""Numbers as text."""

from smidgen.figures import formatting

THIN = "\N{NARROW NO-BREAK SPACE}"


def test_absent_numbers_are_dashes() -> None:
    forms = (
        formatting.percent, formatting.interval, formatting.points, formatting.points_interval,
        formatting.p_value, formatting.count, formatting.quantity, formatting.seconds, formatting.size,
        formatting.parameters, formatting.moment, formatting.text,
    )  # fmt: skip
    assert {form(None) for form in forms} == {"—"}
    assert formatting.percent(float("nan")) == formatting.percent("12") == formatting.percent(True) == "—"


def test_formats() -> None:
    assert formatting.percent(0.9996) == f">99.9{THIN}%"
    assert formatting.percent(0.0002) == f"<0.1{THIN}%"
    assert formatting.points({"value": -0.0001}) == "0.0\N{NO-BREAK SPACE}points"
    assert [formatting.p_value(p) for p in (0.0, 0.0123, 0.5)] == ["< 0.001", "0.012", "0.50"]
    times = [formatting.seconds(t) for t in (0.0421, 8.06, 59.97, 734.2, 12_000)]
    assert times == ["42.1 ms", "8.1 s", "1 min 0 s", "12 min 14 s", "3 h 20 min"]
    assert [formatting.size(b) for b in (12, 9_650_000, 999_900_000)] == ["12 B", "9.65 MB", "1 GB"]
    assert [formatting.parameters(p) for p in (12, 431_000, 8.03e9)] == ["12", "431 k", "8.03 B"]
    assert formatting.moment("yesterday") == "yesterday"
