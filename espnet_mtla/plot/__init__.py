"""Every figure of the package: learning curves, attention, comparisons, benchmarks.

Needs matplotlib. Other folders compute numbers; only the modules here draw them.
"""
