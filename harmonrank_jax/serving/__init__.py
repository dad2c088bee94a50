"""A trained run as something that scores and selects elsewhere."""
