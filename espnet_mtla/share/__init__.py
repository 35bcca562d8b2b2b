"""Models as folders that others can use: packing, the hub, model cards."""
