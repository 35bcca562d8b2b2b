"""How a line of log looks, whoever writes it."""

LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
TIME_FORMAT = "%H:%M:%S"
