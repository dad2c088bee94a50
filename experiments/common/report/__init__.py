"""Reports: one self-contained HTML file, figures first, then tables.

The only modules that import matplotlib.
"""
