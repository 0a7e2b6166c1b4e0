"""Identification: classes counted twice, named and invented devices found, devices outside the grammar refuted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integers import IntFormat, Multiplier, requantize
from refquant.integers.devices import DEVICES, dialect_of
from refquant.integers.dialects import DIALECTS
from refquant.vectors import canonical, descriptions, identify, identify_rows, near_ties, smallest_difference
from refquant.vectors.descriptions import NO_ANSWER, answers, rows_of
from refquant.vectors.probes import answers_of_classes, near_a_tie, next_probes, pool

INT8, UINT8, INT16 = IntFormat(8), IntFormat(8, signed=False), IntFormat(16)
INSIDE = [  # invented devices whose words the grammar has
    "m8,wrap,none,half_even,before,wrap", "m15,saturate,none,half_away,before,wrap", "m31,saturate,floor,to_odd",
    "m1,merged,none,to_odd,before", "float32,merged,none,floor,before", "m31,merged,half_even,half_down,after,wrap",
    "m31,wrap,to_odd,toward_zero,before", "m8,merged,none,half_down,after,wrap", "m15,wrap,none,toward_zero",
    "float32,merged,none,half_down,after,wrap"]


def requantized(words, fmt=INT8):
    """A device that calls ``requantize``, row by row, with what it is given."""
    def device(x, m, shift, zero_point):
        real = np.ldexp(m.astype(float), shift - 31)
        return np.array([requantize(v, Multiplier(*parts), fmt, words, int(z)) for v, *parts, z in
                         zip(x, real, m, shift, zero_point)])

    return device


def clamped(value):
    return np.clip(value, -128, 127)


def two_shifts(x, m, shift, zero_point):  # the places to the right are dropped half at a time, rounded each time
    places = 31 - shift
    half = places // 2
    once = (x * m + (1 << (half - 1))) >> half
    return clamped(((once + (1 << (places - half - 1))) >> (places - half)) + zero_point)


def sixteen_bits_first(x, m, shift, zero_point):  # in the manner of XNNPACK's rndnu16
    places = 31 - shift
    narrow = np.clip(x >> 8, -(2**15), 2**15 - 1)
    return clamped(((narrow * m + (1 << (places - 9))) >> (places - 8)) + zero_point)


def truncated(x, m, shift, zero_point):
    return clamped(((x * (m >> 16) + (1 << (14 - shift))) >> (15 - shift)) + zero_point)


def products_that_wrap(x, m, shift, zero_point):
    product = (x * np.minimum((m + 2**22) >> 23, 255) + 2**31) % 2**32 - 2**31
    return clamped((product >> (8 - shift)) + zero_point)


def narrow_codes(x, m, shift, zero_point):  # clamps to -127
    return np.clip(((x * m + (1 << (30 - shift))) >> (31 - shift)) + zero_point, -127, 127)


@pytest.mark.parametrize("derived", [True, False])
@pytest.mark.parametrize("fmt, derived_classes, free_classes", [
    (INT8, 406, 428), (UINT8, 374, 394), (INT16, 406, 428), (IntFormat(4), 406, 428),
    (IntFormat(16, signed=False), 374, 394)], ids=str)
def test_laws_and_probes_count_the_same_classes(fmt, derived, derived_classes, free_classes):
    """Every class differs from the others on some probe, so that no law is missing."""
    table = answers_of_classes(fmt, derived)
    assert len({row.tobytes() for row in table}) == len(table) == (derived_classes if derived else free_classes)


@given(st.sampled_from(descriptions()), st.sampled_from([INT8, UINT8, INT16, IntFormat(5)]), st.booleans(),
       st.integers(-2**31, 2**31 - 1) | st.integers(-300, 300),
       st.sampled_from([2**30, 2**31 - 1, 3 * 2**29]) | st.integers(2**30, 2**31 - 1),
       st.integers(-31, 30) | st.integers(-3, 3), st.integers(0, 2**32))
def test_what_the_laws_merge_answers_alike(dialect, fmt, derived, x, m, shift, where):
    zero_point = fmt.min + where % (fmt.max - fmt.min + 1)
    rows = rows_of(*(np.array([v]) for v in (x, m, shift, zero_point)))
    one, other = (answers(d, rows, fmt)[0] for d in (dialect, canonical(dialect, fmt, derived)))
    assert one == other or (dialect.multiplier == "real" and NO_ANSWER in (one, other))


@pytest.mark.parametrize("name", [*DIALECTS, *DEVICES, *INSIDE])
def test_devices_of_known_words_are_found_and_confirmed(name):
    found = identify(requantized(name))
    assert found.confirmed and found.classes == 1 and len(found.codes) - 500 < 10
    assert dialect_of(name) in found.fits
    assert {canonical(d, INT8) for d in found.fits} == {canonical(dialect_of(name), INT8)}


@pytest.mark.parametrize("device, suggestion", [
    (two_shifts, None), (sixteen_bits_first, None), (narrow_codes, None),
    (truncated, "m is truncated, not rounded, to 15 bits, else m15,merged,none,half_up,after,saturate"),
    (products_that_wrap, "products wrap in 32 bits, else m8,merged,none,floor,after,saturate")])
def test_devices_outside_the_grammar_are_refuted_and_usual_faults_suggested(device, suggestion):
    found = identify(device)
    assert suggestion is None or suggestion in found.suggestions
    assert not found.confirmed and found.classes == 0 and found.fits == []
    assert len(found.nearest) == 3
    for near in found.nearest:
        row = found.rows.at(slice(near.row, near.row + 1))
        assert int(device(*row[:4])[0]) == near.got == found.codes[near.row]
        assert int(answers(near.dialect, row, INT8)[0]) == near.expected != near.got


ROWS = near_ties(INT8, 600)
SINGLE = answers(dialect_of("single_round"), ROWS, INT8)
SUBTRACTED = clamped(answers(dialect_of("shift_floor"), ROWS._replace(zero_point=-ROWS.zero_point), INT16))


@pytest.mark.parametrize("codes, suggestion", [
    (SINGLE.reshape(-1, 2)[:, ::-1], "neighbouring lanes are swapped, else m31,merged,none,half_up"),
    (SINGLE.reshape(-1, 4)[:, ::-1], "four lanes are in reverse order"),
    (SUBTRACTED, "the zero point is subtracted, else m31,merged,none,floor")])
def test_usual_faults_are_suggested_of_given_rows(codes, suggestion):
    found = identify_rows(ROWS, codes.ravel().astype(np.int64), INT8)
    assert any(text.startswith(suggestion) for text in found.suggestions)


def test_rows_of_two_devices_do_not_go_together():
    other = answers(dialect_of("shift_floor"), ROWS, INT8)
    message = r"^no description fits rows 1\.\.\d+; these do not go together: .* fits rows"
    with pytest.raises(ValueError, match=message):
        identify_rows(ROWS, np.where(np.arange(600) < 300, SINGLE, other), INT8)


def test_few_rows_fit_but_are_not_confirmed():
    rows = pool(INT8).at(slice(0, 5))
    found = identify_rows(rows, answers(dialect_of("single_round"), rows, INT8), INT8)
    assert found.fits and not found.confirmed and found.near_ties <= 5


@pytest.mark.parametrize("name", ["single_round", "rvv_rod"])
def test_the_next_probes_leave_one_class(name):
    found = identify_rows(near_ties(INT8, 10), answers(dialect_of(name), near_ties(INT8, 10), INT8), INT8)
    probes = next_probes(found.left, 40, INT8)
    assert len(probes.x) == 40
    assert identify_rows(probes, answers(dialect_of(name), probes, INT8), INT8).classes == 1


def test_checks_are_near_ties_and_hold_both_ends():
    for fmt in (INT8, UINT8, INT16):
        rows = near_ties(fmt, 500)
        codes = rows.x * rows.real + rows.zero_point
        assert near_a_tie(rows, fmt).all() and codes.min() < fmt.min + 0.6 and codes.max() > fmt.max - 0.6


def test_the_smallest_difference_is_that_of_the_hand_checked_table():
    """Rows 1, 3 and 7 of the table: 1·1/4 is 1 by double rounding, -3·1/4 is 0 on NEON, 1/2 floors to 0."""
    for one, other, x, shift, codes in (("gemmlowp_double", "single_round", 1, -1, (1, 0)),
                                        ("single_round", "shift_floor", 1, 0, (1, 0))):
        rows, *found = smallest_difference(dialect_of(one), dialect_of(other), INT8)
        assert (rows.x[0], rows.shift[0], tuple(found)) == (x, shift, codes) and rows.m[0] == 2**30
    rows, *found = smallest_difference(dialect_of("gemmlowp_double"), dialect_of("neon_double"), INT8)
    assert abs(rows.x[0]) <= 3
    assert smallest_difference(dialect_of("rvv_rnu"), dialect_of("neon_double"), INT8) is None


@pytest.mark.parametrize("device, message", [
    (lambda x, m, shift, z: x / 2, "the device's answers must hold integers of at most 64 bits, got dtype float64"),
    (lambda x, m, shift, z: x[:0], r"the device must answer with one code a row, \(1,\), got shape \(0,\)"),
    (lambda x, m, shift, z: 0 * x + 128, r"the device's answers must be codes of int8, got 128\.\.128")])
def test_what_is_no_code_is_refused(device, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        identify(device)


ONE = rows_of(np.array([5]), np.array([2**30]), np.array([0]), np.array([0]))


@pytest.mark.parametrize("changes, codes, message", [
    ({}, [0.5], "codes must hold integers of at most 64 bits, got dtype float64"),
    ({}, [1000], r"codes must be from -128 to 127, got 1000\.\.1000"),
    ({"m": [5]}, [3], r"m must be from 1073741824 to 2147483647, got 5\.\.5"),
    ({"shift": [31]}, [3], r"shift must be from -31 to 30, got 31\.\.31"),
    ({"x": [2**31]}, [3], r"x must be from -2147483648 to 2147483647, got 2147483648\.\.2147483648"),
    ({"zero_point": [-129]}, [3], r"zero_point must be from -128 to 127, got -129\.\.-129"),
    ({}, [3, 4], r"rows and codes must be columns of one length, at least 1, got shapes x \(1,\), .*, codes \(2,\)"),
    ({name: [] for name in ONE._fields}, [], "rows and codes must be columns of one length, at least 1, got .*")])
def test_rows_and_codes_that_no_device_can_have_are_refused(changes, codes, message):
    rows = ONE._replace(**{name: np.array(column, np.int64) for name, column in changes.items()})
    with pytest.raises(ValueError, match=f"^{message}$"):
        identify_rows(rows, np.array(codes), INT8)


@pytest.mark.parametrize("left", [[], [406], [-1], [0.5]])
def test_probes_of_no_class_are_refused(left):
    with pytest.raises(ValueError, match=r"^left must hold places of classes, from 0 to 405, got \["):
        next_probes(left, 3, INT8)
