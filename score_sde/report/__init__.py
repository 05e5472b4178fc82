"""The record of a run: its numbers, pictures, and the pages that tie them together.

matplotlib and Jinja2 are imported by the functions that need them, so importing this package costs nothing.
"""
