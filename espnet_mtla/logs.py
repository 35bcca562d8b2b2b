"""Format of log lines, for all commands."""

LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
TIME_FORMAT = "%H:%M:%S"
