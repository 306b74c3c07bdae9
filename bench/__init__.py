"""The benchmark: Relay beside the proxies that people would use instead, on one machine, in one run.

``python -m bench`` runs it (``make bench``), ``python -m bench render`` prints a run as ``docs/benchmarks.md``. What is
measured and how stands there and in ``bench/README.md``. Relay never imports this package.
"""
