"""Order statistics with exact derivatives; knows nothing of recommendation."""
