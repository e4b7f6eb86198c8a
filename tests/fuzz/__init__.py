"""Fuzzers with seeds: a bounded number of cases in the tests, hours of them by hand.

``python -m tests.fuzz --minutes 60`` runs all of them in turn; each failure names its seed.
"""
