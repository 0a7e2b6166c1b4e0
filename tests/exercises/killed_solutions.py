"""Prints as JSON, by exercise and property, the wrong solutions on which it fails, with what is said.

In a process of its own: Hypothesis also draws constants of whatever modules are loaded, so that among other tests
another wrong solution may be met.
"""
from __future__ import annotations

import json

from solutions import WRONG

from refquant.exercises import EXERCISES
from refquant.exercises.judging import counter_example

if __name__ == "__main__":
    print(json.dumps({number: {one.name: {name: said for name, wrong in WRONG[number].items()
                                          if (said := counter_example(one, wrong))}
                               for one in exercise.properties} for number, exercise in EXERCISES.items()}))
