"""From scored candidates to a slate that is relevant and varied."""
