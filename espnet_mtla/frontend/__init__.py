"""From samples to features, alike in any batch."""
