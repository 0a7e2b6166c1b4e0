"""Prints the digest of every small suite as JSON; ``digests.json`` holds what any machine must print.

    python tests/vectors/digest_suites.py > tests/vectors/digests.json     (where a suite changes on purpose)
"""
import json

from refquant.vectors.build import SUITES, build_suite

if __name__ == "__main__":
    print(json.dumps({name: json.loads(build_suite(name, small=True)["manifest.json"])["digest"] for name in SUITES},
                     indent=1))
