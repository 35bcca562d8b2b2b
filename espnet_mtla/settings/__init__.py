"""Reading and validating settings. Imports neither torch nor ESPnet."""
