"""Whether an exported folder is the model that it was made of."""
