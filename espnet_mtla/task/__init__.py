"""A task is wiring: which parts there are, how they join, how they are trained."""
