"""The vocabulary that models are made of: masks, attention, positions, norms, residuals. Knows nothing of models."""
