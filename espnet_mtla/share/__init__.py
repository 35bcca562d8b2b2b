"""Share trained models: pack them into folders, write model cards, use the hub."""
