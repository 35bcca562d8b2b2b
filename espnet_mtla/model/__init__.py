"""The ESPnet models the tasks build: front-end to losses. Needs espnet2."""
