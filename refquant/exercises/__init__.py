"""Exercises that check themselves: a stub each in ``exercises/``, and here the properties that a solution must have.

    refquant exercise 04 exercises/04_shift_half_even.py

Read in this order: ``judging`` (how a property finds its smallest counter-example), then ``codes``, ``ranges``,
``layers`` and ``methods``, in the order of the tutorial.
"""

from refquant.exercises.judging import Exercise, Property, Verdict, judge, load  # first: it says who needs Hypothesis

# isort: split
from refquant.exercises import codes, layers, methods, ranges

EXERCISES = {one.number: one for one in (*codes.EXERCISES, *ranges.EXERCISES, *layers.EXERCISES, *methods.EXERCISES)}

__all__ = ["EXERCISES", "Exercise", "Property", "Verdict", "judge", "load"]
