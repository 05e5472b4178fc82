"""The record of a run: pictures, a baseline to compare with, the machine, and one page that ties them together.

Plotting and scikit-learn are imported by the functions that need them, so importing this package costs nothing.
"""
