"""From a trained model and a data folder to hypotheses on disk."""
