"""Does it work here, and does this model do what is promised: ``doctor``, ``prove``."""
