"""From the scores of M objectives and a user profile to one score."""
