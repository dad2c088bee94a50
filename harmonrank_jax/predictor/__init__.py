"""From features of a row to one probability per objective."""
